-- What hangs on an evaluation that is still there is nobody's to delete: it goes with it, in one
-- transaction, after its row. A key or a batch goes with the last that it stands for.
-- contract: no role of any release deletes these otherwise.
ALTER TABLE requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE labels ENABLE ROW LEVEL SECURITY;
ALTER TABLE attempts ENABLE ROW LEVEL SECURITY;
ALTER TABLE output ENABLE ROW LEVEL SECURITY;
ALTER TABLE deliveries ENABLE ROW LEVEL SECURITY;
ALTER TABLE requeues ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE batches ENABLE ROW LEVEL SECURITY;

-- All but deleting is as wide as what each role was granted.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY['requests', 'labels', 'attempts', 'output', 'deliveries', 'requeues',
        'idempotency_keys', 'batches'] LOOP
        EXECUTE format('CREATE POLICY as_granted_read ON %I FOR SELECT USING (true)', name);
        EXECUTE format('CREATE POLICY as_granted_insert ON %I FOR INSERT WITH CHECK (true)', name);
        EXECUTE format('CREATE POLICY as_granted_update ON %I FOR UPDATE USING (true)', name);
    END LOOP;
END
$$;

CREATE POLICY goes_with_it ON requests FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = requests.tenant AND e.id = requests.evaluation)
);
CREATE POLICY goes_with_it ON labels FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = labels.tenant AND e.id = labels.evaluation)
);
CREATE POLICY goes_with_it ON attempts FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = attempts.tenant AND e.id = attempts.evaluation)
);
CREATE POLICY goes_with_it ON deliveries FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = deliveries.tenant AND e.id = deliveries.evaluation)
);
-- Output is the worker's to write, to join and to move.
CREATE POLICY worker_keeps ON output FOR DELETE TO fumehood_worker USING (true);
CREATE POLICY goes_with_it ON output FOR DELETE TO fumehood_api USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = output.tenant AND e.id = output.evaluation)
);
-- A requeue that came to nothing is given back: its new evaluation was never there.
CREATE POLICY goes_with_it ON requeues FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = requeues.tenant AND e.id = requeues.evaluation)
    OR NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = requeues.tenant AND e.id = requeues.again)
);
CREATE POLICY goes_with_the_last ON idempotency_keys FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e
        WHERE e.tenant = idempotency_keys.tenant AND e.idempotency_key = idempotency_keys.idempotency_key)
);
CREATE POLICY goes_with_the_last ON batches FOR DELETE USING (
    NOT EXISTS (SELECT 1 FROM evaluations e WHERE e.tenant = batches.tenant AND e.batch = batches.id)
);
