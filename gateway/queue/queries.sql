-- Every statement of the queue, each under its name and purpose. Lists of numbers arrive as JSON arrays.

-- name: add_message
-- A message is accepted.
INSERT INTO messages VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: add_content
-- Its octets.
INSERT INTO contents VALUES (?, ?, ?, ?, ?);

-- name: add_recipient
-- One of its recipients.
INSERT INTO recipients VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: remove_message
-- The last recipient is settled, or an operator deleted it; the trigger takes content and recipients along.
DELETE FROM messages WHERE n = ?;

-- name: set_recipient
-- A recipient was attempted.
UPDATE recipients SET state = ?, attempts = ?, due = ?, reply = ?, hop = ? WHERE n = ? AND i = ?;

-- name: next_due
-- When the earliest open recipient of a message is due; NULL if none is open.
SELECT min(due) FROM recipients WHERE n = ? AND state < 2;

-- name: set_due
-- A message waits for its next recipient; a held one does not wait.
UPDATE messages SET due = ? WHERE n = ? AND state = 0;

-- name: ready
-- The earliest messages from a place in the schedule on.
SELECT due, n FROM messages WHERE due IS NOT NULL AND (due, n) >= (?, ?) ORDER BY due, n LIMIT ?;

-- name: messages
-- Messages by their numbers, to be claimed or shown.
SELECT n, id, state, created, size, sender, flags, rule, symbols, reason, options FROM messages
WHERE n IN (SELECT value FROM json_each(?));

-- name: recipients
-- All recipients of these messages, in the order of the envelope.
SELECT n, i, address, state, attempts, due, reply, hop, options FROM recipients
WHERE n IN (SELECT value FROM json_each(?)) ORDER BY n, i;

-- name: content
-- The octets of a message.
SELECT trace, head, body, start FROM contents WHERE n = ?;

-- name: number
-- Which message has this id.
SELECT n FROM messages WHERE id = ?;

-- name: hold
-- Keep messages for a human.
UPDATE messages SET state = 1, due = NULL, reason = ?1 WHERE state = 0 AND n IN (SELECT value FROM json_each(?2));

-- name: release
-- Let held messages go on.
UPDATE messages SET state = 0, due = ?1, reason = '' WHERE state = 1 AND n IN (SELECT value FROM json_each(?2));

-- name: retry
-- Try messages now.
UPDATE messages SET due = ?1 WHERE state = 0 AND n IN (SELECT value FROM json_each(?2));

-- name: recipients_due
-- Their open recipients are due now.
UPDATE recipients SET due = ?1 WHERE state < 2 AND n IN (SELECT value FROM json_each(?2));

-- name: count_open
-- How many open recipients there are, and how many of them are deferred (state 1).
SELECT count(*), coalesce(sum(state), 0) FROM recipients WHERE state < 2;

-- name: count_held
-- The same for held messages.
SELECT count(*), coalesce(sum(r.state), 0) FROM messages AS m JOIN recipients AS r ON r.n = m.n
WHERE m.state = 1 AND r.state < 2;

-- name: last_number
-- Where numbering goes on.
SELECT coalesce(max(n), 0) FROM messages;

-- name: filed
-- Messages whose body lives in a file, with the size that it must have.
SELECT m.n, m.id, m.state, m.size - length(c.head) + c.start FROM messages AS m JOIN contents AS c ON c.n = m.n
WHERE m.flags & 4;

-- name: mend_created
-- Stamps of a clock that was wrong: from the future, or from before this program existed.
UPDATE messages SET created = ?1 WHERE created > ?1 OR created < ?2;

-- name: mend_message_due
-- A wait that is longer than any wait we make was set by a clock that was wrong.
UPDATE messages SET due = ?1 WHERE due > ?2;

-- name: mend_recipient_due
-- The same for recipients.
UPDATE recipients SET due = ?1 WHERE due > ?2;
