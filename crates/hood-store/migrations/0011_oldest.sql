-- The queue by age, for whoever asks for the oldest. Its condition is in words that no claim uses: of two
-- indexes that fit, PostgreSQL takes the one that its counts of an hour ago make cheaper, and with the old one
-- a claim read the whole queue to find that nothing else was due. An older release that runs beside
-- finds the oldest more slowly, and nothing else.
CREATE INDEX evaluations_oldest ON evaluations (queued_at) WHERE COALESCE(state, '') = 'queued';
DROP INDEX evaluations_queued;
