-- The accounts file of an earlier ftpd (schema 5), as it was made by that one.
CREATE TABLE account (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    name VARCHAR(32) NOT NULL,
    password_hash VARCHAR NOT NULL,
    home BLOB,
    quota BIGINT,
    used BIGINT NOT NULL,
    held BIGINT NOT NULL,
    dirty BOOLEAN NOT NULL,
    created BIGINT NOT NULL,
    max_files BIGINT,
    files BIGINT DEFAULT '0' NOT NULL,
    held_files BIGINT DEFAULT '0' NOT NULL,
    permissions VARCHAR DEFAULT 'all' NOT NULL,
    networks VARCHAR DEFAULT '' NOT NULL,
    expires BIGINT,
    disabled BOOLEAN DEFAULT '0' NOT NULL,
    max_sessions INTEGER,
    limit_rate BIGINT,
    peer_user VARCHAR(64),
    system_user VARCHAR(64),
    epoch INTEGER DEFAULT '0' NOT NULL,
    CONSTRAINT account_counts_not_below_zero CHECK (used >= 0 AND held >= 0
        AND files >= 0 AND held_files >= 0),
    UNIQUE (name)
);
CREATE TABLE failure (
    subject VARCHAR(128) NOT NULL,
    count INTEGER NOT NULL,
    last BIGINT NOT NULL,
    banned_until BIGINT DEFAULT '0' NOT NULL,
    PRIMARY KEY (subject)
);
CREATE TABLE invitation (
    id VARCHAR(16) NOT NULL,
    hash BLOB NOT NULL,
    quota BIGINT,
    uses INTEGER NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT,
    PRIMARY KEY (id),
    UNIQUE (hash)
);
CREATE TABLE lease (
    id VARCHAR(32) NOT NULL,
    account_id INTEGER NOT NULL,
    node VARCHAR NOT NULL,
    incarnation VARCHAR(32) NOT NULL,
    state VARCHAR(16) NOT NULL,
    size BIGINT NOT NULL,
    staging BLOB,
    expires BIGINT NOT NULL,
    files BIGINT DEFAULT '0' NOT NULL,
    pieces BLOB,
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
CREATE TABLE schema_version (
    version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(5);
CREATE TABLE server (
    id VARCHAR(32) NOT NULL,
    device VARCHAR(32) NOT NULL,
    inode VARCHAR(32) NOT NULL,
    boot VARCHAR(64) NOT NULL,
    PRIMARY KEY (id)
);
CREATE TABLE session (
    id VARCHAR(16) NOT NULL,
    account_id INTEGER NOT NULL,
    address VARCHAR(64) NOT NULL,
    node VARCHAR NOT NULL,
    incarnation VARCHAR(32) NOT NULL,
    since BIGINT NOT NULL,
    expires BIGINT DEFAULT '0' NOT NULL,
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE
);
CREATE TABLE token (
    id VARCHAR(16) NOT NULL,
    account_id INTEGER NOT NULL,
    name VARCHAR(64) NOT NULL,
    hash BLOB NOT NULL,
    created BIGINT NOT NULL,
    expires BIGINT,
    used BIGINT,
    parent VARCHAR(16),
    PRIMARY KEY (id),
    FOREIGN KEY(account_id) REFERENCES account (id) ON DELETE CASCADE,
    UNIQUE (hash),
    FOREIGN KEY(parent) REFERENCES token (id) ON DELETE CASCADE
);
CREATE INDEX failure_by_last ON failure (last);
CREATE INDEX lease_by_account ON lease (account_id);
CREATE INDEX token_by_account ON token (account_id);
CREATE INDEX token_by_parent ON token (parent);
CREATE INDEX session_by_address ON session (address);
CREATE INDEX session_by_account ON session (account_id);
INSERT INTO account (id, name, password_hash, quota, used, held, dirty, created, max_sessions,
    files, held_files)
    VALUES (1, 'alice', 'hash', 10000000, 3, 5000000, 0, 1790000000, 2, 1, 1);
INSERT INTO account (id, name, password_hash, used, held, dirty, created)
    VALUES (2, 'bob', 'hash', 0, 0, 0, 1790000000);
UPDATE sqlite_sequence SET seq = 7 WHERE name = 'account';
INSERT INTO lease VALUES ('5e', 1, 'local', 'before', 'kept', 5000000, x'7531', 9790000000, 1, NULL);
INSERT INTO token VALUES ('e296570a', 1, 'laptop', x'c1', 1790000000, NULL, NULL, NULL);
INSERT INTO token VALUES ('7aa01b22', 1, 'phone', x'c2', 1790000000, NULL, NULL, 'e296570a');
