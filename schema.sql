-- The local index of manifest-sync, `.manifest-sync/index.sqlite`: a cache of what is on disk and in
-- the bucket, plus the base, which is what both last agreed on. `manifest-sync rebuild-index` makes it again
-- when this file is lost. What runs took away is recorded in the trash itself, not here.
--
-- Paths are BLOBs: raw bytes below the root, so that SQLite's order is the order of a page.
-- A state is NULL (absent), or one kind byte and a 32-byte BLAKE3, or x'' (local only: must be hashed),
-- or x'6f' (local only: something that is never sent). States are compared with IS, never with =,
-- because absent equals absent.

-- Facts about this index: its token (see index_mark.py), repository, last head and its ETag, and the journal
-- of an unfinished run.
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- One row for every path that is here, in the base, or in the bucket; a row that is none is deleted.
-- A reader of one folder walks neighbouring rows, hence the path as clustered key.
CREATE TABLE paths (
  path     BLOB PRIMARY KEY,
  size     INTEGER,             -- size to mode: lstat when local was taken; all NULL when not here
  mtime_ns INTEGER,
  ctime_ns INTEGER,
  inode    INTEGER,             -- 64 bits, kept as a signed number
  mode     INTEGER,
  clean    INTEGER NOT NULL DEFAULT 0,  -- 0 hash again, 1 trusted, 2 written by this run, to be confirmed
  local    BLOB,                -- state here
  base     BLOB,                -- state that this machine and the bucket last agreed on
  remote   BLOB,                -- state in the head as far as its pages are reflected
  dropped  INTEGER NOT NULL DEFAULT 0   -- 1: its absence here frees disk and is no deletion
) WITHOUT ROWID;

-- The rows that a push or pull has to think about: few, however big the tree. A query must repeat this
-- condition word for word to be answered from here.
CREATE INDEX drift ON paths (path) WHERE (local IS NOT base OR base IS NOT remote) AND dropped = 0;

-- What `drop` took away: outside the drift, so that it costs nothing until it is asked for.
CREATE INDEX dropped ON paths (path) WHERE dropped = 1;

-- The rows whose stat proves nothing yet; their folders cannot be skipped.
CREATE INDEX unclean ON paths (path) WHERE clean <> 1 AND local IS NOT NULL;

-- Folders as last listed. A folder with the digest of last time needs none of its rows loaded.
CREATE TABLE folders (
  path    BLOB PRIMARY KEY,
  digest  BLOB NOT NULL,
  mounted INTEGER NOT NULL,     -- 1: was on another device than its root
  files   INTEGER NOT NULL,     -- directly in it, ours only
  bytes   INTEGER NOT NULL
) WITHOUT ROWID;

-- Pages of the head kept here. reflected = 1: paths.remote holds what the page says. The body is last,
-- so that listing pages does not read the bodies.
CREATE TABLE pages (
  number    INTEGER PRIMARY KEY,
  id        TEXT NOT NULL UNIQUE,
  session   TEXT NOT NULL DEFAULT '',
  reflected INTEGER NOT NULL DEFAULT 0,
  first     BLOB,
  last      BLOB,
  body      BLOB                -- as stored in the bucket (compressed); NULL when not kept
);

-- Where a chunk can be found: a hint for deduplication, checked against the page before it is used.
CREATE TABLE chunks (
  id   BLOB PRIMARY KEY,
  page INTEGER NOT NULL         -- pages.number
) WITHOUT ROWID;

-- What a push has uploaded and not yet published. planned = 1: the next swap of the head publishes it and it
-- becomes base; 2: it is published and the base stays.
CREATE TABLE pending (
  path    BLOB PRIMARY KEY,
  state   BLOB,                 -- NULL: delete
  entry   BLOB,                 -- the entry with its chunk locations
  fence   INTEGER NOT NULL,     -- fence of the oldest session whose objects the entry uses
  planned INTEGER NOT NULL
) WITHOUT ROWID;

-- Chunks of big files that an unfinished push has already uploaded.
CREATE TABLE sent (
  id       BLOB PRIMARY KEY,
  location BLOB NOT NULL,
  fence    INTEGER NOT NULL
) WITHOUT ROWID;

-- What `adopt` found outside the repository, and the entry made of each object once it was read: so that a
-- killed adopt goes on, and a later one knows what is new there. An index of before 0.3 gets it when needed.
CREATE TABLE adopted (
  path     BLOB PRIMARY KEY,
  url      TEXT NOT NULL,
  etag     TEXT NOT NULL,       -- '' where the listing does not say it
  size     INTEGER NOT NULL,
  modified INTEGER NOT NULL,    -- nanoseconds since 1970, by the store's clock
  listing  INTEGER NOT NULL,    -- number of the listing that saw it last
  entry    BLOB,                -- NULL: this version of the object was not read yet
  snapshot TEXT                 -- the snapshot that this version was last published with, if that succeeded
) WITHOUT ROWID;

-- 'msyn': tells this file from any other SQLite file.
PRAGMA application_id = 1836284270;
-- Raised by every change of the tables; an index of another version is rebuilt, not migrated.
PRAGMA user_version = 3;
