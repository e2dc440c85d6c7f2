-- A claim walks the front of `evaluations_ready`, and steps over what was claimed before and is not yet
-- cleared away. By default that begins when a fifth of the table has changed: with a million that have
-- ended, after hundreds of thousands of claims. Here it begins when a hundredth has, and clears the
-- indexes too, however few pages that is.
ALTER TABLE evaluations SET (
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0.01,
    vacuum_index_cleanup = on
);
-- Counts of a few rows, which everything that moves changes.
ALTER TABLE depth_shards SET (
    fillfactor = 50,
    autovacuum_vacuum_threshold = 1000,
    autovacuum_vacuum_scale_factor = 0
);
