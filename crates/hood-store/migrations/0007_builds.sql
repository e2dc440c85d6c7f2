-- A build may come before the program; what it wrote is a stream of its own.
ALTER TABLE attempts ADD COLUMN build_bytes BIGINT NOT NULL DEFAULT 0;
