-- The notifier writes down what came of a delivery. Where that goes, and what it says, it may not change.
REVOKE UPDATE ON deliveries FROM fumehood_notifier;
GRANT UPDATE (state, token, tries, due_at, settled_at, last_status, last_reason) ON deliveries TO fumehood_notifier;
