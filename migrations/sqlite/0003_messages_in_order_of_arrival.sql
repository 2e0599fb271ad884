-- Messages are stored in the order in which they arrive. A row among its chat's, and its id among the chat's ids, were two pages for each
-- message, and where a page was full its neighbours with it: four to five pages for each to write. Now a batch's rows share pages.
--
-- Clients' ids are random, so each is on a page of its own. The server keeps the newest in memory, and moves them to `message_ids` by
-- thousands, in its order. `messages` has them too: nothing is lost with the memory.
--
-- Copies all messages: needs twice their room beside them while it runs, and the file keeps half of that as free pages.

DROP VIEW live_chats;

CREATE TABLE messages_arrived (
    -- The server counts on from the newest. Whoever puts rows in by hand leaves it out, and empties the two tables below.
    position          INTEGER NOT NULL PRIMARY KEY,
    chat_id           BLOB    NOT NULL,
    sequence          INTEGER NOT NULL,
    sender_id         TEXT    NOT NULL,
    client_message_id TEXT    NOT NULL CHECK (length(client_message_id) BETWEEN 1 AND 64),
    text              TEXT    NOT NULL CHECK (length(text) BETWEEN 1 AND 4096),
    created_at        INTEGER NOT NULL
);

-- Before the rows, which come in its order: made behind them it would be sorted in memory.
CREATE UNIQUE INDEX messages_in_order ON messages_arrived (chat_id, sequence);

INSERT INTO messages_arrived (chat_id, sequence, sender_id, client_message_id, text, created_at)
SELECT chat_id, sequence, sender_id, client_message_id, text, created_at FROM messages ORDER BY chat_id, sequence;

-- Where a client's id is, of messages up to the position in `message_ids_end`. A row whose message is another one or gone means nothing. With both
-- tables empty it is made anew at the server's start.
CREATE TABLE message_ids (
    chat_id           BLOB    NOT NULL,
    sender_id         TEXT    NOT NULL,
    client_message_id TEXT    NOT NULL,
    position          INTEGER NOT NULL,
    PRIMARY KEY (chat_id, sender_id, client_message_id)
) WITHOUT ROWID;

INSERT INTO message_ids (chat_id, sender_id, client_message_id, position)
SELECT o.chat_id, o.sender_id, o.client_message_id, m.position
FROM messages o INDEXED BY messages_once CROSS JOIN messages_arrived m ON m.chat_id = o.chat_id AND m.sequence = o.sequence
ORDER BY o.chat_id, o.sender_id, o.client_message_id;

CREATE TABLE message_ids_end (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    position INTEGER NOT NULL
);
INSERT INTO message_ids_end (id, position) SELECT 1, coalesce(max(position), 0) FROM messages_arrived;

DROP TABLE messages;
ALTER TABLE messages_arrived RENAME TO messages;

CREATE VIEW live_chats AS
SELECT c.id, c.title, c.created_by, c.created_at, c.access_version,
       coalesce((SELECT m.sequence FROM messages m WHERE m.chat_id = c.id ORDER BY m.sequence DESC LIMIT 1), 0) AS last_sequence
FROM chats c
WHERE c.deleted_at IS NULL;
