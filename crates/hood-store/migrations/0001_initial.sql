-- Portable between SQLite and PostgreSQL: ids are UUID, times BIGINT microseconds since 1970 UTC,
-- documents TEXT, bytes BYTEA. `tenant` is in every row that belongs to somebody and in its key.

-- What is asked of an evaluation again and again: narrow, so that the queue stays quick.
CREATE TABLE evaluations (
    tenant TEXT NOT NULL,
    id UUID NOT NULL,
    state TEXT NOT NULL,
    verdict TEXT,
    priority BIGINT NOT NULL,
    environment TEXT NOT NULL,
    environment_digest TEXT,
    labels TEXT NOT NULL,
    batch UUID,
    idempotency_key TEXT,
    position BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    queued_at BIGINT NOT NULL,
    not_before BIGINT,
    ready BIGINT NOT NULL,
    leased_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    last_event BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    losses_infrastructure BIGINT NOT NULL,
    losses_own_death BIGINT NOT NULL,
    losses_suspect BIGINT NOT NULL,
    worker TEXT,
    lease_token BIGINT NOT NULL,
    lease_epoch BIGINT NOT NULL,
    lease_expires_at BIGINT,
    cancel_requested_at BIGINT,
    cancel_grace_ms BIGINT,
    PRIMARY KEY (tenant, id)
);
-- The claim reads the front of this one and nothing else, however long the queue is. `ready` leaves
-- out what waits for its time, so that a storm of retries does not stand in the way either.
CREATE INDEX evaluations_ready ON evaluations (priority DESC, id) WHERE state = 'queued' AND ready = 1;
CREATE INDEX evaluations_waiting ON evaluations (not_before) WHERE state = 'queued' AND ready = 0;
CREATE INDEX evaluations_queued ON evaluations (queued_at) WHERE state = 'queued';
CREATE INDEX evaluations_leased ON evaluations (lease_expires_at) WHERE lease_expires_at IS NOT NULL;
CREATE INDEX evaluations_state ON evaluations (tenant, state, id);
CREATE INDEX evaluations_batch ON evaluations (tenant, batch, id) WHERE batch IS NOT NULL;
CREATE INDEX evaluations_idempotency ON evaluations (tenant, idempotency_key, position)
    WHERE idempotency_key IS NOT NULL;

CREATE TABLE requests (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant, evaluation)
);

CREATE TABLE results (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    document TEXT NOT NULL,
    PRIMARY KEY (tenant, evaluation)
);

-- For the filter only; what a row shows comes from `evaluations.labels`.
CREATE TABLE labels (
    tenant TEXT NOT NULL,
    label_key TEXT NOT NULL,
    label_value TEXT NOT NULL,
    evaluation UUID NOT NULL,
    PRIMARY KEY (tenant, label_key, label_value, evaluation)
);

-- One row for each transition, numbered from 1 without gaps; never changed.
CREATE TABLE events (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    number BIGINT NOT NULL,
    kind TEXT NOT NULL,
    occurred_at BIGINT NOT NULL,
    attempt BIGINT,
    not_before BIGINT,
    verdict TEXT,
    PRIMARY KEY (tenant, evaluation, number)
);

CREATE TABLE attempts (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    number BIGINT NOT NULL,
    leased_at BIGINT NOT NULL,
    started_at BIGINT,
    ended_at BIGINT,
    lost TEXT,
    decision TEXT,
    stdout_bytes BIGINT NOT NULL,
    stderr_bytes BIGINT NOT NULL,
    output_cut BIGINT NOT NULL,
    PRIMARY KEY (tenant, evaluation, number)
);

-- Chunks as they came while the attempt runs, few large pieces once it has ended.
CREATE TABLE output (
    tenant TEXT NOT NULL,
    evaluation UUID NOT NULL,
    attempt BIGINT NOT NULL,
    stream TEXT NOT NULL,
    start_at BIGINT NOT NULL,
    bytes BYTEA NOT NULL,
    PRIMARY KEY (tenant, evaluation, attempt, stream, start_at)
);

CREATE TABLE batches (
    tenant TEXT NOT NULL,
    id UUID NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (tenant, id)
);

CREATE TABLE idempotency_keys (
    tenant TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    fingerprint BYTEA NOT NULL,
    batch UUID,
    PRIMARY KEY (tenant, idempotency_key)
);

-- The hash decides who the tenant is, so it is unique over all of them.
CREATE TABLE api_keys (
    hash BYTEA NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- How many evaluations are in each state that is not terminal: counted as they move, since to count
-- a long queue when somebody asks takes longer the longer it is.
CREATE TABLE depths (
    tenant TEXT NOT NULL,
    state TEXT NOT NULL,
    priority BIGINT NOT NULL,
    evaluations BIGINT NOT NULL,
    PRIMARY KEY (tenant, state, priority)
);

-- Of the installation, nobody's own.
CREATE TABLE capacity (
    slot BIGINT NOT NULL PRIMARY KEY,
    version BIGINT NOT NULL,
    noted_at BIGINT NOT NULL,
    document TEXT NOT NULL
);

CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value BIGINT NOT NULL
);
