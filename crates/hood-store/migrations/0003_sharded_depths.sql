-- Counted in shards: several who write at the same time, each in a shard of its own, do not wait for
-- each other's commits. A shard's count may be below zero; what counts is the sum.
CREATE TABLE depth_shards (
    shard BIGINT NOT NULL,
    tenant TEXT NOT NULL,
    state TEXT NOT NULL,
    priority BIGINT NOT NULL,
    evaluations BIGINT NOT NULL,
    PRIMARY KEY (tenant, state, priority, shard)
);
INSERT INTO depth_shards (shard, tenant, state, priority, evaluations)
    SELECT 0, tenant, state, priority, evaluations FROM depths;
DROP TABLE depths;
