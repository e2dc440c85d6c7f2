-- What the API's user may write, held against somebody who has taken the API over and speaks SQL.
-- contract: no API of any release does otherwise.

-- A trigger that looks a table up by its name finds a temporary one of that name first: who is held by it
-- may make one.
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION hold_api_to_its_blobs() SET search_path = pg_catalog, %I, pg_temp', current_schema());
END
$$;
CREATE OR REPLACE FUNCTION hold_api_to_cancelling() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF row_security_active(TG_RELID) AND NOT pg_has_role(current_user, 'fumehood_worker', 'MEMBER') AND NOT (
        OLD.state = 'queued' AND NEW.state = 'cancelled' AND NEW.verdict = 'cancelled'
        AND NEW.last_event = OLD.last_event + 1
    ) THEN
        RAISE EXCEPTION '% may end what is queued, as cancelled, and change nothing else', current_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;

-- A row that no worker can read would stop whoever claims it.
DROP POLICY api_accepts ON evaluations;
CREATE POLICY api_accepts ON evaluations FOR INSERT TO fumehood_api WITH CHECK (
    state = 'queued' AND attempts = 0 AND lease_token = 0 AND lease_epoch = 0 AND last_event = 1
    AND priority BETWEEN 0 AND 9 AND position BETWEEN 0 AND 1000000000
    AND losses_infrastructure = 0 AND losses_own_death = 0 AND losses_suspect = 0
    -- Microseconds, until the year 9999.
    AND created_at BETWEEN 0 AND 253402300799999999 AND queued_at BETWEEN 0 AND 253402300799999999
);
-- An event out of turn would take the number of the one that is to come.
DROP POLICY api_notes ON events;
CREATE POLICY api_notes ON events FOR INSERT TO fumehood_api WITH CHECK (
    (kind = 'submitted' AND number = 1)
    OR (kind = 'finished' AND verdict = 'cancelled' AND EXISTS (SELECT 1 FROM evaluations e
        WHERE e.tenant = events.tenant AND e.id = events.evaluation AND e.state = 'cancelled' AND e.last_event = events.number))
);
-- What the notifier signs is the worker's to say; of the API, that it has cancelled what was queued.
DROP POLICY as_granted_insert ON deliveries;
CREATE POLICY worker_tells ON deliveries FOR INSERT TO fumehood_worker WITH CHECK (true);
CREATE POLICY api_tells_of_cancelling ON deliveries FOR INSERT TO fumehood_api WITH CHECK (
    verdict = 'cancelled' AND outcome = 'cancelled' AND EXISTS (SELECT 1 FROM evaluations e
        WHERE e.tenant = deliveries.tenant AND e.id = deliveries.evaluation AND e.state = 'cancelled'
            AND e.last_event = deliveries.event AND e.callback = deliveries.url)
);
