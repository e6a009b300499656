-- A web shop in PostgreSQL: a lookup, a big table with a serial key, uuid and composite keys, arrays,
-- JSON, a table without a key, an empty one.
CREATE TABLE countries (code char(2) PRIMARY KEY, name text NOT NULL);
INSERT INTO countries VALUES ('CH', 'Schweiz'), ('DE', 'Deutschland'), ('FR', 'France'), ('IT', 'Italia');
CREATE TABLE customers (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(), email text NOT NULL, country char(2), born date);
INSERT INTO customers (email, country, born)
SELECT 'c' || i || '@example.com', (ARRAY['CH', 'DE', 'FR', NULL])[1 + i % 4], '1950-01-01'::date + i
FROM generate_series(1, 8000) i;
CREATE TABLE orders (
    id bigserial PRIMARY KEY, customer int NOT NULL, total numeric(12,2), updated_at timestamptz NOT NULL);
INSERT INTO orders (customer, total, updated_at)
SELECT i % 8000, i * 0.25, '2026-01-01Z'::timestamptz + i * interval '1 minute'
FROM generate_series(1, 120000) i;
CREATE INDEX ON orders (updated_at);
CREATE TABLE order_lines (
    order_id bigint, line_no smallint, product int, quantity int NOT NULL, PRIMARY KEY (order_id, line_no));
INSERT INTO order_lines SELECT i / 3, i % 3, i % 500, 1 + i % 9 FROM generate_series(0, 29999) i;
CREATE TABLE products (id serial PRIMARY KEY, tags text[], attributes jsonb, weight numeric(10,3));
INSERT INTO products (tags, attributes, weight)
SELECT CASE WHEN i % 5 > 0 THEN ARRAY['new', NULL, 'tag ' || i] END,
    jsonb_build_object('colour', i % 7, 'notes', NULL), i / 8.0
FROM generate_series(1, 500) i;
CREATE TABLE clicks (seen_at timestamp NOT NULL, page text, seconds double precision);
INSERT INTO clicks SELECT '2026-01-01'::timestamp + i * interval '1 second', '/page/' || i % 90, i / 7.0
FROM generate_series(1, 6000) i;
CREATE TABLE refunds (id bigserial PRIMARY KEY, order_id bigint, amount numeric(12,2));
CREATE TABLE stock (product int, warehouse text, pieces bigint, PRIMARY KEY (warehouse, product));
INSERT INTO stock SELECT i % 500, 'w' || i / 500, i * 3 FROM generate_series(0, 1999) i;
CREATE ROLE exporter LOGIN;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO exporter;
ANALYZE;
