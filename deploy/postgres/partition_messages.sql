-- Cuts `messages` into 16 parts by chat_id. Nothing else changes: each statement of the service names the chat, so PostgreSQL goes to one
-- part per chat. docs/scaling.md says when it is worth it. `make test-cluster` runs a Redis Cluster's nodes on it.
--
-- It copies the table in one transaction, which keeps every send waiting, and refused after a while: stop the nodes, and have as much room
-- on the disk again as the table takes. On an empty database it takes no time.

BEGIN;

LOCK TABLE messages IN ACCESS EXCLUSIVE MODE;
ALTER TABLE messages RENAME TO messages_whole;
ALTER TABLE messages_whole RENAME CONSTRAINT messages_pkey TO messages_whole_pkey;
ALTER TABLE messages_whole RENAME CONSTRAINT messages_once TO messages_whole_once;

CREATE TABLE messages (
    LIKE messages_whole INCLUDING DEFAULTS INCLUDING CONSTRAINTS,
    PRIMARY KEY (chat_id, sequence),
    CONSTRAINT messages_once UNIQUE (chat_id, sender_id, client_message_id)
) PARTITION BY HASH (chat_id);

DO $$
BEGIN
    FOR part IN 0..15 LOOP
        EXECUTE format('CREATE TABLE messages_%s PARTITION OF messages FOR VALUES WITH (MODULUS 16, REMAINDER %s)', part, part);
    END LOOP;
END
$$;

INSERT INTO messages SELECT * FROM messages_whole;
DROP TABLE messages_whole;

COMMIT;
