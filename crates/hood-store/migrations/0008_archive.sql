-- Evaluations that have left the tables above for an object of the archive: which one, and where in it.
CREATE TABLE archived (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    state TEXT NOT NULL,
    batch UUID,
    idempotency_key TEXT,
    position BIGINT NOT NULL,
    finished_at BIGINT NOT NULL,
    blob TEXT NOT NULL,
    frame_at BIGINT NOT NULL,
    frame_bytes BIGINT NOT NULL,
    PRIMARY KEY (tenant, evaluation)
);
CREATE INDEX archived_blob ON archived (blob);
CREATE INDEX archived_finished ON archived (finished_at);
CREATE INDEX archived_batch ON archived (tenant, batch) WHERE batch IS NOT NULL;
CREATE INDEX archived_idempotency ON archived (tenant, idempotency_key, position)
    WHERE idempotency_key IS NOT NULL;

CREATE INDEX evaluations_finished ON evaluations (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX blobs_archive ON blobs (name) WHERE part = 'archive';
