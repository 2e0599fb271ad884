-- Times are microseconds since 1970-01-01 UTC; ids of chats are the 16 bytes of the UUID.

CREATE TABLE chats (
    id              BLOB    NOT NULL PRIMARY KEY,
    title           TEXT    NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    created_by      TEXT    NOT NULL,
    created_at      INTEGER NOT NULL,
    -- What makes a CreateChat repeatable: the request's id and a digest of its content.
    request_id      TEXT,
    request_digest  BLOB,
    last_sequence   INTEGER NOT NULL DEFAULT 0,
    -- created_at of the newest message: the next one's is never below it, whatever the clock says.
    last_message_at INTEGER NOT NULL DEFAULT 0,
    -- Raised by every change of members or roles: open streams check their access again when it moves.
    access_version  INTEGER NOT NULL DEFAULT 1,
    -- Set: the chat is gone for everyone, and its rows are removed in the background.
    deleted_at      INTEGER
) WITHOUT ROWID;

CREATE UNIQUE INDEX chats_by_request ON chats (created_by, request_id) WHERE request_id IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX chats_deleted ON chats (id) WHERE deleted_at IS NOT NULL;

CREATE TABLE chat_members (
    chat_id   BLOB    NOT NULL,
    user_id   TEXT    NOT NULL CHECK (length(user_id) BETWEEN 1 AND 128),
    -- 1 owner, 2 moderator, 3 member, 4 reader.
    role      INTEGER NOT NULL CHECK (role BETWEEN 1 AND 4),
    joined_at INTEGER NOT NULL,
    PRIMARY KEY (chat_id, user_id)
) WITHOUT ROWID;

CREATE INDEX chat_members_by_user ON chat_members (user_id, chat_id);

CREATE TABLE messages (
    chat_id           BLOB    NOT NULL,
    sequence          INTEGER NOT NULL,
    sender_id         TEXT    NOT NULL,
    client_message_id TEXT    NOT NULL CHECK (length(client_message_id) BETWEEN 1 AND 64),
    text              TEXT    NOT NULL CHECK (length(text) BETWEEN 1 AND 4096),
    created_at        INTEGER NOT NULL,
    PRIMARY KEY (chat_id, sequence)
) WITHOUT ROWID;

CREATE UNIQUE INDEX messages_once ON messages (chat_id, sender_id, client_message_id);
