-- Messages are stored in the order in which they arrive. A row among its chat's, and its id among the chat's ids, were two pages for each
-- message, and where a page was full its neighbours with it: four to five pages for each to write. Now a batch's rows share pages.
--
-- Clients' ids are random, so each is on a page of its own. The server keeps the newest in memory, and moves them to `message_ids` by
-- thousands, in its order. `messages` has them too: nothing is lost with the memory.
--
-- Copies all messages, and needs as much room again meanwhile.

DROP VIEW live_chats;
ALTER TABLE messages RENAME TO messages_by_chat;

CREATE TABLE messages (
    -- Never given twice: what is kept of it elsewhere never means another message.
    position          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    chat_id           BLOB    NOT NULL,
    sequence          INTEGER NOT NULL,
    sender_id         TEXT    NOT NULL,
    client_message_id TEXT    NOT NULL CHECK (length(client_message_id) BETWEEN 1 AND 64),
    text              TEXT    NOT NULL CHECK (length(text) BETWEEN 1 AND 4096),
    created_at        INTEGER NOT NULL
);

INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
SELECT chat_id, sequence, sender_id, client_message_id, text, created_at FROM messages_by_chat ORDER BY chat_id, sequence;

CREATE UNIQUE INDEX messages_in_order ON messages (chat_id, sequence);

-- Where a client's id is, of the messages up to `message_ids_end`. A row whose message is gone means nothing.
CREATE TABLE message_ids (
    chat_id           BLOB    NOT NULL,
    sender_id         TEXT    NOT NULL,
    client_message_id TEXT    NOT NULL,
    position          INTEGER NOT NULL,
    PRIMARY KEY (chat_id, sender_id, client_message_id)
) WITHOUT ROWID;

INSERT INTO message_ids (chat_id, sender_id, client_message_id, position)
SELECT o.chat_id, o.sender_id, o.client_message_id, m.position
FROM messages_by_chat o INDEXED BY messages_once CROSS JOIN messages m ON m.chat_id = o.chat_id AND m.sequence = o.sequence
ORDER BY o.chat_id, o.sender_id, o.client_message_id;

CREATE TABLE message_ids_end (position INTEGER NOT NULL);
INSERT INTO message_ids_end (position) SELECT coalesce(max(position), 0) FROM messages;

CREATE TRIGGER messages_gone AFTER DELETE ON messages BEGIN
    DELETE FROM message_ids
    WHERE chat_id = old.chat_id AND sender_id = old.sender_id AND client_message_id = old.client_message_id AND position = old.position;
END;

DROP TABLE messages_by_chat;

CREATE VIEW live_chats AS
SELECT c.id, c.title, c.created_by, c.created_at, c.access_version,
       coalesce((SELECT m.sequence FROM messages m WHERE m.chat_id = c.id ORDER BY m.sequence DESC LIMIT 1), 0) AS last_sequence
FROM chats c
WHERE c.deleted_at IS NULL;
