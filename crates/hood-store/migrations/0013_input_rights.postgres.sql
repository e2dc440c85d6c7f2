-- The API writes what is too large for a row into objects of its own: it notes each before its first byte
-- is written, and refers to it, or gives it up.
GRANT INSERT (name, tenant, evaluation, part, state, noted_at, bytes, digest) ON blobs TO fumehood_api;

-- Of other objects it gives up those alone whose evaluation, or whose archive's last one, it has deleted.
CREATE FUNCTION hold_api_to_its_blobs() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
    allowed BOOLEAN;
BEGIN
    IF NOT row_security_active('evaluations') OR pg_has_role(current_user, 'fumehood_worker', 'MEMBER') THEN
        RETURN NEW;
    END IF;
    allowed := CASE
        WHEN TG_OP = 'INSERT' THEN NEW.part = 'input' AND NEW.evaluation IS NOT NULL AND NEW.state = 'writing'
        WHEN NEW.state = OLD.state THEN true
        WHEN OLD.part = 'input' AND OLD.state = 'writing' THEN NEW.state IN ('kept', 'doomed')
        WHEN NEW.state <> 'doomed' THEN false
        WHEN OLD.part = 'archive' THEN NOT EXISTS (SELECT 1 FROM archived a WHERE a.blob = OLD.name)
        ELSE NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = OLD.tenant AND e.id = OLD.evaluation)
            AND NOT EXISTS (SELECT 1 FROM archived a WHERE a.tenant = OLD.tenant AND a.evaluation = OLD.evaluation)
    END;
    IF allowed IS NOT TRUE THEN
        RAISE EXCEPTION '% may write blobs of requests, give up those of what is deleted, and change nothing else',
            current_user USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER hold_api_to_its_blobs BEFORE INSERT OR UPDATE ON blobs FOR EACH ROW
    EXECUTE FUNCTION hold_api_to_its_blobs();
