-- What infrastructure failed can be given another life: a new evaluation with the same request. The
-- old one stays as it ended; each is given one at most.
CREATE TABLE requeues (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    again UUID NOT NULL,
    requeued_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, evaluation)
);
CREATE UNIQUE INDEX requeues_again ON requeues (tenant, again);
CREATE INDEX evaluations_dead ON evaluations (tenant, id) WHERE verdict = 'infrastructure_error';

-- Where to tell of an evaluation's end, if anywhere.
ALTER TABLE evaluations ADD COLUMN callback TEXT;

-- What is to be told, written in the transaction of what it tells of. Whoever sends reads this table and
-- no other. 'pending': due at `due_at`, to which a claim adds the time it may take. 'delivered'. 'dead':
-- tried often enough.
CREATE TABLE deliveries (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    event BIGINT NOT NULL,
    url TEXT NOT NULL,
    state TEXT NOT NULL,
    token BIGINT NOT NULL,
    tries BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    settled_at BIGINT,
    last_status BIGINT,
    last_reason TEXT,
    outcome TEXT NOT NULL,
    verdict TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    labels TEXT NOT NULL,
    batch UUID,
    accepted_at BIGINT NOT NULL,
    leased_at BIGINT,
    ready_at BIGINT,
    result TEXT NOT NULL,
    PRIMARY KEY (tenant, evaluation, event)
);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 'pending';
CREATE INDEX deliveries_state ON deliveries (tenant, state, evaluation);
