-- As migration 5 for messages. Each batch of messages updates chats and never a title, which a trigger of its own looks after.
CREATE FUNCTION chats_refuse_title() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE check_violation USING MESSAGE = 'a chat''s title has 1 to 200 characters';
END
$$;

DO $$
BEGIN
    PERFORM set_config('lock_timeout', '200ms', true);
    FOR try IN 1..60 LOOP
        BEGIN
            ALTER TABLE chats DROP CONSTRAINT IF EXISTS chats_title_check;
            CREATE TRIGGER chats_title BEFORE INSERT OR UPDATE OF title ON chats FOR EACH ROW
                WHEN (char_length(NEW.title) NOT BETWEEN 1 AND 200) EXECUTE FUNCTION chats_refuse_title();
            RETURN;
        EXCEPTION WHEN lock_not_available THEN
            PERFORM pg_sleep(0.8);
        END;
    END LOOP;
    RAISE EXCEPTION 'chats is in use by something long, as a backup; migrate again when that has ended';
END
$$;
