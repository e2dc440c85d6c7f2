-- Who may do what. Three groups, which the users of separated roles are made members of; whoever owns
-- the tables is under none of this. Groups belong to the whole server: another installation on it may
-- have made them already.
DO $$
DECLARE
    group_name TEXT;
BEGIN
    FOREACH group_name IN ARRAY ARRAY['fumehood_api', 'fumehood_worker', 'fumehood_notifier'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = group_name) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', group_name);
            EXCEPTION
                WHEN duplicate_object OR unique_violation THEN NULL;
                WHEN insufficient_privilege THEN
                    RAISE EXCEPTION 'role % is missing, and % may not create it', group_name, current_user
                        USING HINT = format('Let an administrator run: CREATE ROLE %I NOLOGIN', group_name);
            END;
        END IF;
    END LOOP;
END
$$;

GRANT SELECT ON schema_migrations TO fumehood_api, fumehood_worker, fumehood_notifier;
-- Health proves by a write of its own that writing works.
GRANT SELECT, INSERT, UPDATE ON counters TO fumehood_api, fumehood_worker, fumehood_notifier;

-- The API: accepts, notes that something is to be cancelled, reads, and forgets what has ended.
GRANT SELECT ON evaluations, requests, results, labels, events, attempts, output, batches, idempotency_keys,
    api_keys, depth_shards, capacity, blobs, turns, requeues, deliveries TO fumehood_api;
GRANT INSERT (tenant, id, state, priority, environment, labels, callback, batch, idempotency_key, position, created_at,
    queued_at, ready, last_event, attempts, losses_infrastructure, losses_own_death, losses_suspect, lease_token,
    lease_epoch) ON evaluations TO fumehood_api;
GRANT UPDATE (state, verdict, last_event, finished_at, not_before, ready, cancel_requested_at, cancel_grace_ms)
    ON evaluations TO fumehood_api;
GRANT INSERT ON requests, labels, events, results, batches, idempotency_keys, requeues, deliveries TO fumehood_api;
GRANT UPDATE (state, tries, due_at, settled_at) ON deliveries TO fumehood_api;
GRANT UPDATE (created_at) ON batches TO fumehood_api;
GRANT UPDATE (batch) ON idempotency_keys TO fumehood_api;
GRANT DELETE ON evaluations, requests, labels, events, results, attempts, output, batches, idempotency_keys,
    requeues, deliveries TO fumehood_api;
GRANT INSERT, UPDATE ON depth_shards TO fumehood_api;
GRANT UPDATE (state) ON blobs TO fumehood_api;

-- The worker: leases, writes what came of it, and keeps house. It makes no evaluation and no key.
GRANT SELECT ON evaluations, requests, results, labels, events, attempts, output, batches, depth_shards, capacity,
    blobs, turns, deliveries TO fumehood_worker;
GRANT UPDATE (state, verdict, environment_digest, queued_at, not_before, ready, leased_at, started_at, finished_at,
    last_event, attempts, losses_infrastructure, losses_own_death, losses_suspect, worker, lease_token, lease_epoch,
    lease_expires_at) ON evaluations TO fumehood_worker;
GRANT INSERT ON events, results, deliveries TO fumehood_worker;
GRANT INSERT, UPDATE ON attempts, depth_shards, capacity TO fumehood_worker;
GRANT INSERT, DELETE ON output TO fumehood_worker;
GRANT INSERT, UPDATE, DELETE ON blobs, turns TO fumehood_worker;

-- The notifier: sends what is to be told, and sees nothing else.
GRANT SELECT, UPDATE ON deliveries TO fumehood_notifier;

-- Columns are not enough where it matters what is written into them.
ALTER TABLE evaluations ENABLE ROW LEVEL SECURITY;
ALTER TABLE events ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON evaluations FOR SELECT USING (true);
CREATE POLICY everybody_reads ON events FOR SELECT USING (true);
CREATE POLICY api_accepts ON evaluations FOR INSERT TO fumehood_api
    WITH CHECK (state = 'queued' AND attempts = 0 AND lease_token = 0 AND last_event = 1);
CREATE POLICY api_cancels ON evaluations FOR UPDATE TO fumehood_api
    USING (state IN ('queued', 'provisioning', 'running')) WITH CHECK (true);
CREATE POLICY api_forgets ON evaluations FOR DELETE TO fumehood_api
    USING (state IN ('succeeded', 'failed', 'cancelled'));
CREATE POLICY worker_writes ON evaluations FOR UPDATE TO fumehood_worker
    USING (state IN ('queued', 'provisioning', 'running')) WITH CHECK (true);
CREATE POLICY api_notes ON events FOR INSERT TO fumehood_api
    WITH CHECK (kind = 'submitted' OR (kind = 'finished' AND verdict = 'cancelled'));
CREATE POLICY api_forgets ON events FOR DELETE TO fumehood_api USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = events.tenant AND e.id = events.evaluation)
);
ALTER TABLE results ENABLE ROW LEVEL SECURITY;
CREATE POLICY everybody_reads ON results FOR SELECT USING (true);
CREATE POLICY api_ends ON results FOR INSERT TO fumehood_api WITH CHECK (EXISTS (
    SELECT 1 FROM evaluations e WHERE e.tenant = results.tenant AND e.id = results.evaluation AND e.state = 'cancelled'
));
CREATE POLICY api_forgets ON results FOR DELETE TO fumehood_api USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = results.tenant AND e.id = results.evaluation)
);
CREATE POLICY worker_ends ON results FOR INSERT TO fumehood_worker WITH CHECK (true);
CREATE POLICY worker_notes ON events FOR INSERT TO fumehood_worker WITH CHECK (kind <> 'submitted');

-- What one row becomes depends on what it was, which a policy cannot see. The API ends what is queued,
-- as cancelled; of anything else it changes nothing but the wish to cancel.
CREATE FUNCTION hold_api_to_cancelling() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    IF row_security_active('evaluations') AND NOT pg_has_role(current_user, 'fumehood_worker', 'MEMBER') AND NOT (
        OLD.state = 'queued' AND NEW.state = 'cancelled' AND NEW.verdict = 'cancelled'
        AND NEW.last_event = OLD.last_event + 1
    ) THEN
        RAISE EXCEPTION '% may end what is queued, as cancelled, and change nothing else', current_user
            USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER hold_api_to_cancelling BEFORE UPDATE ON evaluations FOR EACH ROW
    WHEN ((OLD.state, OLD.verdict, OLD.last_event, OLD.finished_at, OLD.not_before, OLD.ready)
        IS DISTINCT FROM (NEW.state, NEW.verdict, NEW.last_event, NEW.finished_at, NEW.not_before, NEW.ready))
    EXECUTE FUNCTION hold_api_to_cancelling();
