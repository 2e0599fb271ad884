-- A batch of one message, which is what a quiet server's are, takes two thirds of the time by a call of its own without arrays. And the functions
-- that store messages hold the lengths of ids and texts, which checks of the table did: see migration 5.

-- As chat_append_new, for one message. The answer is NULL where the message isn't new or may not be stored; then nothing is.
CREATE FUNCTION chat_append_one(
    p_chat uuid, p_sender text, p_rights smallint, p_id text, p_text text, OUT place bigint, OUT at timestamptz
)
LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    UPDATE chats AS c SET last_sequence = c.last_sequence + 1, last_message_at = greatest(clock_timestamp(), c.last_message_at)
    WHERE c.id = p_chat AND c.deleted_at IS NULL
    RETURNING c.last_sequence, c.last_message_at INTO place, at;

    INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
    SELECT p_chat, place, p_sender, p_id, p_text, at
    WHERE place IS NOT NULL AND char_length(p_id) BETWEEN 1 AND 64 AND char_length(p_text) BETWEEN 1 AND 4096
      AND (p_rights = 2 OR p_rights = 1 AND EXISTS (
          SELECT FROM chat_members m WHERE m.chat_id = p_chat AND m.user_id = p_sender AND m.role <= 3
      ));
    IF NOT FOUND THEN
        RAISE EXCEPTION 'the chat is not there, the sender may not send, or a length is beyond its limit';
    END IF;
EXCEPTION
    -- What was done so far is undone.
    WHEN unique_violation OR raise_exception THEN
        place := NULL;
        at := NULL;
END
$$;

-- Appends a batch of which every message is new and may be stored: one call, one transaction, one round trip. Else it stores nothing and
-- answers no row.
--
-- p_chats: the batch's chats, each once, in the order of their ids, so that two batches never wait for each other in a circle. p_counts:
-- how many messages each gets. The others are the messages': p_chat is the place of its chat in p_chats, p_rank its place among its
-- chat's, both counted from 1; p_rights as in chat_append.
-- The answer, in the order of p_chats: the sequence before the first new message, and the time of all of them.
--
-- The UPDATE locks each chat, and reads the clock again where it had to wait: a later holder of a lock never has an earlier time. READ
-- COMMITTED gives the INSERT a snapshot of its own, taken behind the locks, so it sees who was removed before. That a message is new is
-- what the unique index says.
CREATE OR REPLACE FUNCTION chat_append_new(
    p_chats uuid[], p_counts integer[],
    p_chat integer[], p_rank integer[], p_senders text[], p_rights smallint[], p_ids text[], p_texts text[]
) RETURNS TABLE (befores bigint[], times timestamptz[])
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_stored bigint;
BEGIN
    WITH raised AS (
        UPDATE chats AS c SET last_sequence = c.last_sequence + i.count, last_message_at = greatest(clock_timestamp(), c.last_message_at)
        FROM unnest(p_chats, p_counts) WITH ORDINALITY AS i (id, count, n)
        WHERE c.id = i.id AND c.deleted_at IS NULL
        RETURNING i.n, c.last_sequence - i.count AS before, c.last_message_at AS at
    )
    SELECT array_agg(r.before ORDER BY r.n), array_agg(r.at ORDER BY r.n) INTO befores, times FROM raised r;
    IF cardinality(befores) IS DISTINCT FROM cardinality(p_chats) THEN
        RAISE EXCEPTION 'a chat of the batch is not there';
    END IF;

    INSERT INTO messages (chat_id, sequence, sender_id, client_message_id, text, created_at)
    SELECT p_chats[i.chat], befores[i.chat] + i.rank, i.sender, i.id, i.text, times[i.chat]
    FROM unnest(p_chat, p_rank, p_senders, p_rights, p_ids, p_texts) AS i (chat, rank, sender, rights, id, text)
    WHERE char_length(i.id) BETWEEN 1 AND 64 AND char_length(i.text) BETWEEN 1 AND 4096
      AND (i.rights = 2 OR i.rights = 1 AND EXISTS (
          SELECT FROM chat_members m WHERE m.chat_id = p_chats[i.chat] AND m.user_id = i.sender AND m.role <= 3
      ));
    GET DIAGNOSTICS v_stored = ROW_COUNT;
    IF v_stored <> cardinality(p_ids) THEN
        RAISE EXCEPTION 'a sender of the batch may not send, or a length is beyond its limit';
    END IF;
    RETURN NEXT;
EXCEPTION
    -- What was done so far is undone.
    WHEN unique_violation OR raise_exception THEN RETURN;
END
$$;

-- Appends a batch of messages, whatever they are: one call, one transaction, one round trip.
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
    IF EXISTS (
        SELECT FROM unnest(p_ids, p_texts) AS i (id, text)
        WHERE char_length(i.id) NOT BETWEEN 1 AND 64 OR char_length(i.text) NOT BETWEEN 1 AND 4096
    ) THEN
        RAISE check_violation USING MESSAGE = 'a message''s id has 1 to 64 characters, and its text 1 to 4096';
    END IF;

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
    v_now := clock_timestamp();

    RETURN QUERY
    WITH input AS (
        SELECT i.*, i.ordinality AS n
        FROM unnest(p_chats, p_senders, p_rights, p_ids, p_texts) WITH ORDINALITY
            AS i (chat_id, sender_id, rights, message_id, text, ordinality)
    ),
    judged AS (
        SELECT i.n, i.chat_id, i.sender_id, i.message_id, i.text,
               c.last_sequence, c.last_message_at,
               m.sequence AS old_sequence, m.created_at AS old_created_at,
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
        -- Whether a chat is locked is asked of its row, once found: asked of the index, it is as many searches as there are chats.
        LEFT JOIN LATERAL (
            SELECT x.id, x.last_sequence, x.last_message_at FROM chats x WHERE x.id = i.chat_id OFFSET 0
        ) c ON c.id = ANY (v_locked)
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
        SELECT g.*, greatest(v_now, g.last_message_at) AS at,
               g.last_sequence + count(*) FILTER (WHERE g.first_n = g.n) OVER (PARTITION BY g.chat_id ORDER BY g.n) AS number
        FROM grouped g
    ),
    stored AS (
        INSERT INTO messages AS t (chat_id, sequence, sender_id, client_message_id, text, created_at)
        SELECT s.chat_id, s.number, s.sender_id, s.message_id, s.text, s.at FROM numbered s WHERE s.first_n = s.n ORDER BY s.chat_id, s.number
    ),
    raised AS (
        UPDATE chats AS t SET last_sequence = s.number, last_message_at = s.at
        FROM (SELECT x.chat_id, max(x.number) AS number, max(x.at) AS at FROM numbered x WHERE x.first_n = x.n GROUP BY x.chat_id) s
        WHERE t.id = s.chat_id
    ),
    -- Beside each message what is stored of the first with its id.
    answered AS (
        SELECT x.n, x.verdict, x.text, x.first_n, x.old_sequence, x.old_created_at,
               min(x.number) FILTER (WHERE x.first_n = x.n) OVER same AS first_number,
               min(x.at) FILTER (WHERE x.first_n = x.n) OVER same AS first_at,
               min(x.text) FILTER (WHERE x.first_n = x.n) OVER same AS first_text
        FROM numbered x WINDOW same AS (PARTITION BY x.chat_id, x.sender_id, x.message_id)
    )
    SELECT
        (CASE WHEN a.first_n < a.n THEN CASE WHEN a.text = a.first_text THEN 'D' ELSE 'C' END ELSE a.verdict END)::"char",
        coalesce(a.old_sequence, CASE WHEN a.first_n <= a.n THEN a.first_number END),
        coalesce(a.old_created_at, CASE WHEN a.first_n <= a.n THEN a.first_at END)
    FROM answered a
    ORDER BY a.n;
END
$$;
