package sqlite

import (
	"database/sql"
	"errors"
	"fmt"

	"modernc.org/sqlite"
	lib "modernc.org/sqlite/lib"

	"kemi"
)

// applicationID marks the file as ours: "KEMI".
const applicationID = 0x4b454d49

// migrations lead from one version of the schema to the next; the version is how many have been applied. None may be changed once it has
// been released.
var migrations = []string{
	`CREATE TABLE resource (
		kind     TEXT NOT NULL,
		project  TEXT NOT NULL,
		name     TEXT NOT NULL,
		spec     BLOB,
		status   BLOB,
		revision INTEGER NOT NULL,
		updated  INTEGER NOT NULL,
		PRIMARY KEY (kind, project, name)
	) STRICT;
	CREATE TABLE counter (revision INTEGER NOT NULL) STRICT;
	INSERT INTO counter VALUES (0);`,
}

// migrate brings the schema up to date. It touches nothing if the file is not ours.
func migrate(db *sql.DB) error {
	var app, version, tables int
	for _, q := range []struct {
		text string
		to   *int
	}{{"PRAGMA application_id", &app}, {"PRAGMA user_version", &version}, {"SELECT count(*) FROM sqlite_schema", &tables}} {
		if err := db.QueryRow(q.text).Scan(q.to); err != nil {
			return err
		}
	}
	switch {
	case app != applicationID && (app != 0 || tables > 0):
		return kemi.Errorf(kemi.ErrInvalid, "it is a database of another program")
	case version > len(migrations):
		return kemi.Errorf(kemi.ErrInvalid, "it has version %d; this program knows versions up to %d: start a newer one", version, len(migrations))
	}
	var mode string
	if err := db.QueryRow("PRAGMA journal_mode = WAL").Scan(&mode); err != nil {
		return err
	}
	if mode != "wal" {
		return kemi.Errorf(kemi.ErrUnavailable, "its file system cannot hold a write-ahead log (journal mode is %q)", mode)
	}
	if version == len(migrations) {
		return nil
	}
	tx, err := db.Begin()
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for i := version; i < len(migrations); i++ {
		if _, err := tx.Exec(migrations[i]); err != nil {
			return fmt.Errorf("bring it to version %d: %w", i+1, err)
		}
	}
	if _, err := tx.Exec(fmt.Sprintf("PRAGMA application_id = %d; PRAGMA user_version = %d", applicationID, len(migrations))); err != nil {
		return err
	}
	return tx.Commit()
}

// explain gives an error of SQLite its kind and says what to do.
func (d *DB) explain(err error) error {
	if d.closed.Load() {
		return kemi.Errorf(kemi.ErrUnavailable, "control state is closed")
	}
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Code() & 0xff {
	case lib.SQLITE_FULL:
		return kemi.Errorf(kemi.ErrUnavailable, "no space left on the disk of %s: %w", d.path, err)
	case lib.SQLITE_READONLY, lib.SQLITE_PERM, lib.SQLITE_CANTOPEN:
		return kemi.Errorf(kemi.ErrUnavailable, "%s or its folder cannot be written: %w", d.path, err)
	case lib.SQLITE_BUSY, lib.SQLITE_LOCKED:
		return kemi.Errorf(kemi.ErrUnavailable, "another process holds %s: %w", d.path, err)
	case lib.SQLITE_IOERR:
		return kemi.Errorf(kemi.ErrUnavailable, "reading or writing %s failed (disk full or broken?): %w", d.path, err)
	case lib.SQLITE_NOTADB:
		return kemi.Errorf(kemi.ErrInvalid, "%s is not a database: %w", d.path, err)
	case lib.SQLITE_CORRUPT:
		return fmt.Errorf("%s is damaged; restore it from a backup: %w", d.path, err)
	}
	return err
}
