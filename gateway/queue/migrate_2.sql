-- From schema 1 to schema 2: what the sender asked of notices is kept (RFC 3461). Mail of before asked for nothing.
ALTER TABLE messages ADD COLUMN options TEXT;
ALTER TABLE recipients ADD COLUMN options TEXT;
