-- Who moves evaluations into the archive and deletes what is too old: the worker, which keeps house. The
-- API reads what is archived, and forgets it when it is asked to.
GRANT SELECT, DELETE ON archived TO fumehood_api;
GRANT SELECT, INSERT, DELETE ON archived TO fumehood_worker;

-- What the end of an evaluation takes with it.
GRANT DELETE ON evaluations, requests, labels, events, results, attempts, requeues, deliveries, batches,
    idempotency_keys TO fumehood_worker;
GRANT SELECT ON requeues TO fumehood_worker;
-- Of keys what deleting the last evaluation of one needs; not the fingerprint of what was sent.
GRANT SELECT (tenant, idempotency_key, batch), UPDATE (batch) ON idempotency_keys TO fumehood_worker;
GRANT UPDATE (created_at) ON batches TO fumehood_worker;

CREATE POLICY worker_archives ON evaluations FOR DELETE TO fumehood_worker
    USING (state IN ('succeeded', 'failed', 'cancelled'));
CREATE POLICY worker_archives ON events FOR DELETE TO fumehood_worker USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = events.tenant AND e.id = events.evaluation)
);
CREATE POLICY worker_archives ON results FOR DELETE TO fumehood_worker USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = results.tenant AND e.id = results.evaluation)
);
