-- :rows rows of about 4 KB in 20 columns: JSON, text arrays, 20 % NULLs where NULL is allowed.
-- Every value is a hash of (row, column seed): the same table on every machine.
CREATE FUNCTION pg_temp.pick(i bigint, seed integer, choices integer) RETURNS integer
    LANGUAGE sql IMMUTABLE AS
$$ SELECT (((hashint8extended(i, seed) % choices) + choices) % choices)::integer $$;

-- One text of five is NULL.
CREATE FUNCTION pg_temp.or_null(value text, i bigint, seed integer) RETURNS text
    LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN pg_temp.pick(i, seed, 5) > 0 THEN value END $$;

-- Fragments of about 400 bytes of words; a row's long texts are made of them.
CREATE TEMP TABLE fragment AS
SELECT n, string_agg(
    (ARRAY['the','order','was','sent','to','customer','late','parcel','and','returned','with',
           'damage','invoice','paid','by','card','warehouse','north','south','pending','review',
           'price','changed','after','delivery','address','unknown','please','call','before',
           'noon','signed'])[1 + pg_temp.pick(n * 100 + k, 1, 32)], ' ' ORDER BY k) AS body
FROM generate_series(0, 4095) n, generate_series(1, 68) k
GROUP BY n;
CREATE UNIQUE INDEX ON fragment (n);
ANALYZE fragment;

CREATE TABLE wide (
    id          bigint PRIMARY KEY,
    account_id  integer NOT NULL,
    external_id uuid NOT NULL,
    status      text NOT NULL,
    active      boolean NOT NULL,
    created_at  timestamp with time zone NOT NULL,
    updated_at  timestamp without time zone,
    due_on      date,
    amount      numeric(14,2),
    score       double precision,
    visits      integer,
    email       text,
    title       text,
    body        text,
    notes       text,
    history     text,
    tags        text[],
    labels      text[],
    payload     jsonb,
    attributes  json
);

INSERT INTO wide
SELECT i,
       pg_temp.pick(i, 2, 20000),
       md5('wide' || i)::uuid,
       (ARRAY['new','open','waiting','closed'])[1 + pg_temp.pick(i, 3, 4)],
       pg_temp.pick(i, 4, 2) = 1,
       timestamptz '2024-01-01 00:00:00+00' + i * interval '7.000013 seconds',
       CASE WHEN pg_temp.pick(i, 5, 5) > 0
            THEN timestamp '2024-06-01' + pg_temp.pick(i, 6, 31536000) * interval '1 second' END,
       CASE WHEN pg_temp.pick(i, 7, 5) > 0 THEN date '2024-01-01' + pg_temp.pick(i, 8, 900) END,
       CASE WHEN pg_temp.pick(i, 9, 5) > 0 THEN pg_temp.pick(i, 10, 100000000) / 100.0 END,
       CASE WHEN pg_temp.pick(i, 11, 5) > 0 THEN pg_temp.pick(i, 12, 1000000) / 7.0 END,
       CASE WHEN pg_temp.pick(i, 13, 5) > 0 THEN pg_temp.pick(i, 14, 500) END,
       pg_temp.or_null('user' || pg_temp.pick(i, 15, 90000) || '@example.org', i, 16),
       pg_temp.or_null(left(a.body, 80), i, 17),
       pg_temp.or_null(a.body || '. ' || b.body || '. ' || c.body || '. ' || d.body, i, 18),
       pg_temp.or_null(e.body || '. ' || f.body, i, 19),
       pg_temp.or_null(f.body || '. ' || c.body, i, 20),
       CASE WHEN pg_temp.pick(i, 21, 5) > 0
            THEN string_to_array(left(b.body, 60), ' ') END,
       CASE WHEN pg_temp.pick(i, 22, 5) > 0
            THEN ARRAY['region-' || pg_temp.pick(i, 23, 12), NULL, 'tier-' || pg_temp.pick(i, 24, 4)] END,
       CASE WHEN pg_temp.pick(i, 25, 5) > 0 THEN jsonb_build_object(
            'order', i, 'items', pg_temp.pick(i, 26, 40), 'note', d.body,
            'shipping', jsonb_build_object('text', e.body, 'express', pg_temp.pick(i, 27, 2) = 1),
            'prices', jsonb_build_array(pg_temp.pick(i, 28, 9999) / 100.0, 12.5, null)) END,
       CASE WHEN pg_temp.pick(i, 29, 5) > 0 THEN json_build_object(
            'channel', 'web', 'agent', left(f.body, 200), 'referrer', left(a.body, 150),
            'steps', json_build_array(1, 2, pg_temp.pick(i, 30, 50)), 'text', b.body) END
FROM generate_series(1, :rows) AS i
JOIN fragment a ON a.n = pg_temp.pick(i, 41, 4096)
JOIN fragment b ON b.n = pg_temp.pick(i, 42, 4096)
JOIN fragment c ON c.n = pg_temp.pick(i, 43, 4096)
JOIN fragment d ON d.n = pg_temp.pick(i, 44, 4096)
JOIN fragment e ON e.n = pg_temp.pick(i, 45, 4096)
JOIN fragment f ON f.n = pg_temp.pick(i, 46, 4096)
ORDER BY i;
