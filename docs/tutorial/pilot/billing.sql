-- A billing system in MariaDB: unsigned numbers, decimals, JSON, dates that do not exist, a table
-- without a key, an empty one.
CREATE TABLE currencies (code char(3) PRIMARY KEY, digits tinyint unsigned NOT NULL);
INSERT INTO currencies VALUES ('CHF', 2), ('EUR', 2), ('JPY', 0);
CREATE TABLE invoices (
    id bigint unsigned AUTO_INCREMENT PRIMARY KEY, customer int unsigned NOT NULL,
    total decimal(14,4) NOT NULL, note varchar(80), updated_at datetime(6) NOT NULL, KEY (updated_at));
INSERT INTO invoices (customer, total, note, updated_at)
SELECT seq % 8000, seq / 4, IF(seq % 3, CONCAT('note ', seq), NULL), '2026-01-01' + INTERVAL seq SECOND
FROM seq_1_to_40000;
CREATE TABLE invoice_lines (
    invoice_id bigint unsigned, line_no tinyint unsigned, amount decimal(14,4), PRIMARY KEY (invoice_id, line_no));
INSERT INTO invoice_lines SELECT seq DIV 3, seq MOD 3, seq / 8 FROM seq_0_to_14999;
CREATE TABLE payments (id char(36) PRIMARY KEY, details json, amount decimal(12,2));
INSERT INTO payments
SELECT uuid(), JSON_OBJECT('n', seq, 'ref', NULL), seq / 100 FROM seq_1_to_3000;
CREATE TABLE contracts (id int unsigned PRIMARY KEY, signed_on date, biggest bigint unsigned);
SET sql_mode = '';
INSERT INTO contracts
SELECT seq, IF(seq % 10, '2020-02-29', '0000-00-00'), 18446744073709551615 - seq FROM seq_1_to_200;
CREATE TABLE audit (done_at datetime NOT NULL, actor varchar(40), payload varbinary(200));
INSERT INTO audit SELECT '2026-01-01' + INTERVAL seq MINUTE, CONCAT('user', seq % 9), UNHEX(SHA1(seq)) FROM seq_1_to_4000;
CREATE TABLE reminders (id int AUTO_INCREMENT PRIMARY KEY, invoice_id bigint unsigned, sent_at timestamp NULL);
CREATE USER exporter;
GRANT SELECT ON billing.* TO exporter;
ANALYZE TABLE currencies, invoices, invoice_lines, payments, contracts, audit, reminders;
