-- A request that is too large for a row is kept as this object, and `document` has what is shown of it.
ALTER TABLE requests ADD COLUMN blob TEXT;
