-- Where a chat stands is told by its newest message. A row of the chat's that each message changed as well was one page more of three for
-- every commit to write.
--
-- A chat that isn't deleted never loses its messages: whatever removes some of them one day must leave the newest.

CREATE VIEW live_chats AS
SELECT c.id, c.title, c.created_by, c.created_at, c.access_version,
       coalesce((SELECT m.sequence FROM messages m WHERE m.chat_id = c.id ORDER BY m.sequence DESC LIMIT 1), 0) AS last_sequence
FROM chats c
WHERE c.deleted_at IS NULL;

-- Where somebody has removed a chat's newest messages by hand, their numbers would be given again: then this fails, and nothing is changed.
CREATE TABLE numbering (is_whole INTEGER NOT NULL CONSTRAINT newest_messages_of_a_chat_are_missing_restore_them CHECK (is_whole));
INSERT INTO numbering (is_whole)
SELECT c.last_sequence = l.last_sequence FROM chats c JOIN live_chats l ON l.id = c.id;
DROP TABLE numbering;

ALTER TABLE chats DROP COLUMN last_sequence;
ALTER TABLE chats DROP COLUMN last_message_at;
