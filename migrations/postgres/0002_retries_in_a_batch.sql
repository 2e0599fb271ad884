-- A message behind one with the same id in the same batch is its retry also where its own rights would refuse it: ids come before
-- membership.

-- Appends a batch of messages: one call, one transaction, one round trip.
--
-- Row i of the answer is message i's: outcome 'S'tored, 'D'uplicate, 'C'onflict, 'N'ot found, 'R'efused, 'B'usy.
-- rights: 2 acts on every chat, 1 needs a chat role that may send, 0 may never send.
--
-- READ COMMITTED gives a new snapshot to each statement, not to each CTE: the rows are locked by a statement of their own,
-- and only later ones read. One statement that locked and looked up would leave holes under concurrent retries. For the same
-- reason the function is VOLATILE.
CREATE OR REPLACE FUNCTION chat_append(
    p_chats uuid[], p_senders text[], p_rights smallint[], p_ids text[], p_texts text[], p_skip_locked boolean
) RETURNS TABLE (outcome "char", sequence bigint, created_at timestamptz)
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_locked uuid[];
    v_now    timestamptz;
BEGIN
    -- In the order of ids, so that two batches never wait for each other in a circle.
    IF p_skip_locked THEN
        SELECT array_agg(l.id) INTO v_locked FROM (
            SELECT c.id FROM chats c WHERE c.id = ANY (p_chats) AND c.deleted_at IS NULL ORDER BY c.id FOR UPDATE SKIP LOCKED
        ) l;
    ELSE
        SELECT array_agg(l.id) INTO v_locked FROM (
            SELECT c.id FROM chats c WHERE c.id = ANY (p_chats) AND c.deleted_at IS NULL ORDER BY c.id FOR UPDATE
        ) l;
    END IF;
    -- After the locks: a later holder of a lock never sees an earlier time because of the wait.
    v_now := date_trunc('microseconds', clock_timestamp());

    RETURN QUERY
    WITH input AS (
        SELECT i.*, i.ordinality AS n
        FROM unnest(p_chats, p_senders, p_rights, p_ids, p_texts) WITH ORDINALITY
            AS i (chat_id, sender_id, rights, message_id, text, ordinality)
    ),
    judged AS (
        SELECT i.n, i.chat_id, i.sender_id, i.message_id, i.text,
               c.last_sequence, c.last_message_at,
               m.sequence AS old_sequence, m.created_at AS old_created_at, m.text AS old_text,
               CASE
                   WHEN c.id IS NULL THEN
                       CASE WHEN p_skip_locked AND EXISTS (SELECT FROM chats x WHERE x.id = i.chat_id AND x.deleted_at IS NULL)
                            THEN 'B' ELSE 'N' END
                   WHEN m.sequence IS NOT NULL THEN CASE WHEN m.text = i.text THEN 'D' ELSE 'C' END
                   WHEN i.rights = 2 THEN 'S'
                   WHEN r.role IS NULL THEN 'N'
                   WHEN i.rights = 0 OR r.role > 3 THEN 'R'
                   ELSE 'S'
               END AS verdict
        FROM input i
        LEFT JOIN LATERAL (
            SELECT x.id, x.last_sequence, x.last_message_at FROM chats x WHERE x.id = i.chat_id AND x.id = ANY (v_locked) OFFSET 0
        ) c ON true
        LEFT JOIN LATERAL (
            SELECT x.sequence, x.created_at, x.text FROM messages x
            WHERE x.chat_id = i.chat_id AND x.sender_id = i.sender_id AND x.client_message_id = i.message_id OFFSET 0
        ) m ON c.id IS NOT NULL
        LEFT JOIN LATERAL (
            SELECT x.role FROM chat_members x WHERE x.chat_id = i.chat_id AND x.user_id = i.sender_id OFFSET 0
        ) r ON c.id IS NOT NULL AND m.sequence IS NULL
    ),
    -- Of several with one id the first that can be stored: those behind it are answered like retries of it, whatever their
    -- own rights.
    grouped AS (
        SELECT j.*, min(j.n) FILTER (WHERE j.verdict = 'S') OVER (PARTITION BY j.chat_id, j.sender_id, j.message_id) AS first_n
        FROM judged j
    ),
    numbered AS (
        SELECT j.*, greatest(v_now, j.last_message_at) AS at,
               j.last_sequence + row_number() OVER (PARTITION BY j.chat_id ORDER BY j.n) AS number
        FROM grouped j WHERE j.first_n = j.n
    ),
    stored AS (
        INSERT INTO messages AS t (chat_id, sequence, sender_id, client_message_id, text, created_at)
        SELECT s.chat_id, s.number, s.sender_id, s.message_id, s.text, s.at FROM numbered s ORDER BY s.chat_id, s.number
    ),
    raised AS (
        UPDATE chats AS t SET last_sequence = s.number, last_message_at = s.at
        FROM (SELECT x.chat_id, max(x.number) AS number, max(x.at) AS at FROM numbered x GROUP BY x.chat_id) s
        WHERE t.id = s.chat_id
    )
    SELECT
        (CASE WHEN s.n < j.n THEN CASE WHEN j.text = s.text THEN 'D' ELSE 'C' END ELSE j.verdict END)::"char",
        coalesce(j.old_sequence, s.number),
        coalesce(j.old_created_at, s.at)
    FROM grouped j LEFT JOIN numbered s ON s.n = j.first_n AND s.n <= j.n
    ORDER BY j.n;
END
$$;
