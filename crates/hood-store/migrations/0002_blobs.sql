-- Objects of the blob store, each from before its first byte is written until after it is deleted, so
-- that none is forgotten whoever dies. 'wanted': output in rows that is to become this object.
-- 'writing': its bytes are on the way, and one transaction will refer to it, or none ever will.
-- 'kept': it is there, and it is referred to. 'doomed': nobody refers to it any more.
CREATE TABLE blobs (
    name TEXT NOT NULL PRIMARY KEY,
    tenant TEXT NOT NULL,
    evaluation UUID,
    attempt BIGINT,
    part TEXT NOT NULL,
    state TEXT NOT NULL,
    noted_at BIGINT NOT NULL,
    bytes BIGINT NOT NULL,
    digest BYTEA NOT NULL
);
CREATE INDEX blobs_evaluation ON blobs (tenant, evaluation, attempt, part) WHERE evaluation IS NOT NULL;
CREATE INDEX blobs_loose ON blobs (state, noted_at) WHERE state <> 'kept';

-- Work that one process at a time does, and until when it is that process's.
CREATE TABLE turns (
    name TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    ends_at BIGINT NOT NULL
);
