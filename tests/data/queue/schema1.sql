-- Schema 1, as the first version of this program made it. For tests of the migration; never changed.

-- One row a queued message. Small on purpose: it is rewritten at every deferral, and listings read all of them.
CREATE TABLE messages (
  n       INTEGER PRIMARY KEY,
  id      TEXT NOT NULL UNIQUE,   -- the queue id
  state   INTEGER NOT NULL,       -- 0 queued, 1 held
  due     REAL,                   -- the earliest of its open recipients; NULL while it is held
  created REAL NOT NULL,          -- Unix time
  size    INTEGER NOT NULL,
  sender  TEXT NOT NULL,          -- '' is the null sender
  flags   INTEGER NOT NULL,       -- 1: octets above 127, 2: SMTPUTF8, 4: the body has a file
  rule    TEXT NOT NULL,          -- what decided at acceptance
  symbols TEXT NOT NULL,          -- names, separated by blanks
  reason  TEXT NOT NULL           -- why it is held
);
CREATE INDEX messages_due ON messages (due) WHERE due IS NOT NULL;
CREATE INDEX messages_held ON messages (n) WHERE state = 1;
CREATE INDEX messages_filed ON messages (n) WHERE flags & 4;

-- One row a recipient, kept until the last one of its message is settled.
CREATE TABLE recipients (
  n        INTEGER NOT NULL,
  i        INTEGER NOT NULL,      -- place in the envelope
  address  TEXT NOT NULL,
  domain   TEXT NOT NULL,         -- lower-case A-labels, for selection
  state    INTEGER NOT NULL,      -- 0 queued, 1 deferred, 2 delivered, 3 failed
  attempts INTEGER NOT NULL,
  due      REAL NOT NULL,
  reply    TEXT NOT NULL,         -- the last one
  hop      TEXT NOT NULL,         -- who gave it
  PRIMARY KEY (n, i)
) WITHOUT ROWID;

-- The octets, never changed. A body of NULL lives in the file <spool>/<id> from `start` on.
CREATE TABLE contents (
  n     INTEGER PRIMARY KEY,
  trace INTEGER NOT NULL,         -- how much of `head` is our trace
  head  BLOB NOT NULL,            -- trace and header section
  body  BLOB,
  start INTEGER NOT NULL
);

CREATE TRIGGER message_gone AFTER DELETE ON messages BEGIN
  DELETE FROM contents WHERE n = old.n;
  DELETE FROM recipients WHERE n = old.n;
END;
