package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	_ "modernc.org/sqlite" // the driver

	"kemi"
	"kemi/pipeline/store"
)

// The limits of a resource.
const (
	maxKey  = 1 << 10 // bytes of project, kind and name, each
	maxBody = 8 << 20 // bytes of spec and status together
)

// readers is how many reads may be under way at once; more wait.
const readers = 4

// DB is the control state in one file.
type DB struct {
	path   string
	now    func() time.Time
	read   *sql.DB
	write  *sql.DB
	writer chan struct{} // holds one token: who has it writes
	opened bool
	closed atomic.Bool
}

var _ store.Control = (*DB)(nil)

// Open opens the file at path, and makes it and its folder if there is none. The file is for its owner's eyes only: it holds
// hashes of tokens. Errors: ErrUnavailable if the place cannot be written or another process holds it, ErrInvalid if the file is not ours
// or was written by a newer version.
func Open(path string) (*DB, error) {
	d := &DB{path: path, now: time.Now, writer: make(chan struct{}, 1)}
	if err := d.open(); err != nil {
		_ = d.Close()
		return nil, fmt.Errorf("open control state %s: %w", path, err)
	}
	return d, nil
}

func (d *DB) open() error {
	if err := os.MkdirAll(filepath.Dir(d.path), 0o700); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "%w", err)
	}
	// SQLite would make the file readable by all; its WAL takes the mode of the file.
	f, err := os.OpenFile(d.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "%w", err)
	}
	if err := f.Close(); err != nil {
		return kemi.Errorf(kemi.ErrUnavailable, "%w", err)
	}
	if d.write, err = sql.Open("sqlite", dsn(d.path, "synchronous(FULL)")); err != nil {
		return err
	}
	d.write.SetMaxOpenConns(1)
	if err := migrate(d.write); err != nil {
		return d.explain(err)
	}
	if d.read, err = sql.Open("sqlite", dsn(d.path, "query_only(1)")); err != nil {
		return err
	}
	d.read.SetMaxOpenConns(readers)
	d.read.SetMaxIdleConns(readers)
	d.opened = true
	d.writer <- struct{}{}
	return nil
}

func dsn(path string, pragmas ...string) string {
	path = strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
	return "file:" + path + "?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=" + strings.Join(pragmas, "&_pragma=")
}

// Close ends reads and writes, and merges the WAL into the file.
func (d *DB) Close() error {
	if d.closed.Swap(true) {
		return nil
	}
	if d.opened {
		<-d.writer // a change under way comes to its end; later ones see that it is closed
		defer func() { d.writer <- struct{}{} }()
	}
	var err error
	for _, db := range []*sql.DB{d.read, d.write} { // the last one to close merges the WAL, so the writer
		if db != nil {
			err = errors.Join(err, db.Close())
		}
	}
	if err != nil {
		return fmt.Errorf("close control state %s: %w", d.path, err)
	}
	return nil
}

// Get is as store.Control has it.
func (d *DB) Get(ctx context.Context, project, kind, name string) (store.Resource, error) {
	r := store.Resource{Project: project, Kind: kind, Name: name}
	row := d.read.QueryRowContext(ctx, `SELECT spec, status, revision, updated FROM resource WHERE kind = ? AND project = ? AND name = ?`, kind, project, name)
	var spec, status []byte
	switch err := row.Scan(&spec, &status, &r.Revision, &r.Updated); {
	case errors.Is(err, sql.ErrNoRows):
		return store.Resource{}, notFound(kind, name)
	case err != nil:
		return store.Resource{}, fmt.Errorf("get %s %q: %w", kind, name, d.explain(err))
	}
	r.Spec, r.Status = spec, status
	return r, nil
}

func notFound(kind, name string) error {
	return kemi.Errorf(kemi.ErrNotFound, "there is no %s %q", kind, name)
}

// Put is as store.Control has it.
func (d *DB) Put(ctx context.Context, r store.Resource) (store.Resource, error) {
	rs, err := d.PutAll(ctx, []store.Resource{r})
	if err != nil {
		return store.Resource{}, err
	}
	return rs[0], nil
}

// PutAll is as store.Control has it.
func (d *DB) PutAll(ctx context.Context, rs []store.Resource) ([]store.Resource, error) {
	for i := range rs {
		if err := check(&rs[i]); err != nil {
			return nil, err
		}
	}
	out := make([]store.Resource, len(rs))
	copy(out, rs)
	err := d.change(ctx, func(tx *sql.Tx) error {
		for i := range out {
			if err := put(tx, &out[i], kemi.MillisOf(d.now())); err != nil {
				return fmt.Errorf("put %s %q: %w", out[i].Kind, out[i].Name, d.explain(err))
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

func put(tx *sql.Tx, r *store.Resource, now kemi.Millis) error {
	var next int64
	if err := tx.QueryRow(`UPDATE counter SET revision = revision + 1 RETURNING revision`).Scan(&next); err != nil {
		return err
	}
	var res sql.Result
	var err error
	spec, status := []byte(r.Spec), []byte(r.Status)
	switch {
	case r.Revision == store.AnyRevision:
		res, err = tx.Exec(`INSERT INTO resource (project, kind, name, spec, status, revision, updated) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO UPDATE SET spec = excluded.spec, status = excluded.status, revision = excluded.revision, updated = excluded.updated`,
			r.Project, r.Kind, r.Name, spec, status, next, now)
	case r.Revision == 0:
		res, err = tx.Exec(`INSERT INTO resource (project, kind, name, spec, status, revision, updated) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
			r.Project, r.Kind, r.Name, spec, status, next, now)
	default:
		res, err = tx.Exec(`UPDATE resource SET spec = ?, status = ?, revision = ?, updated = ? WHERE kind = ? AND project = ? AND name = ? AND revision = ?`,
			spec, status, next, now, r.Kind, r.Project, r.Name, r.Revision)
	}
	if err != nil {
		return err
	}
	if n, err := res.RowsAffected(); err != nil || n == 1 {
		r.Revision, r.Updated = next, now
		return err
	}
	if r.Revision == 0 {
		return kemi.Errorf(kemi.ErrConflict, "it exists already")
	}
	return kemi.Errorf(kemi.ErrConflict, "it is no longer at revision %d", r.Revision)
}

// Delete is as store.Control has it.
func (d *DB) Delete(ctx context.Context, project, kind, name string, revision int64) error {
	return d.change(ctx, func(tx *sql.Tx) error {
		var have int64
		switch err := tx.QueryRow(`SELECT revision FROM resource WHERE kind = ? AND project = ? AND name = ?`, kind, project, name).Scan(&have); {
		case errors.Is(err, sql.ErrNoRows):
			return notFound(kind, name)
		case err != nil:
			return fmt.Errorf("delete %s %q: %w", kind, name, d.explain(err))
		case revision != store.AnyRevision && revision != have:
			return kemi.Errorf(kemi.ErrConflict, "delete %s %q: it is no longer at revision %d", kind, name, revision)
		}
		if _, err := tx.Exec(`DELETE FROM resource WHERE kind = ? AND project = ? AND name = ?`, kind, project, name); err != nil {
			return fmt.Errorf("delete %s %q: %w", kind, name, d.explain(err))
		}
		return nil
	})
}

// change runs f in a transaction: all of it happens, durably, or nothing does. Once it has begun, an end of ctx no longer
// stops it, so the caller never has to guess whether it happened.
func (d *DB) change(ctx context.Context, f func(*sql.Tx) error) error {
	select {
	case <-ctx.Done():
		return fmt.Errorf("change control state: %w", ctx.Err())
	case <-d.writer:
	}
	defer func() { d.writer <- struct{}{} }()
	if d.closed.Load() {
		return kemi.Errorf(kemi.ErrUnavailable, "control state is closed")
	}
	if err := ctx.Err(); err != nil { // select takes either when both are there
		return fmt.Errorf("change control state: %w", err)
	}
	tx, err := d.write.BeginTx(context.WithoutCancel(ctx), nil)
	if err != nil {
		return fmt.Errorf("change control state: %w", d.explain(err))
	}
	if err := f(tx); err != nil {
		_ = tx.Rollback() // its error would hide the cause; the connection is thrown away then
		return err
	}
	if err := tx.Commit(); err != nil {
		_ = tx.Rollback()
		return fmt.Errorf("change control state: %w", d.explain(err))
	}
	return nil
}

// List is as store.Control has it.
func (d *DB) List(ctx context.Context, project, kind string, o store.ListOptions) ([]store.Resource, error) {
	q, args := listQuery(project, kind, o)
	rows, err := d.read.QueryContext(ctx, q, args...)
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, d.explain(err))
	}
	defer rows.Close()
	var out []store.Resource
	for rows.Next() {
		r := store.Resource{Kind: kind}
		var spec, status []byte
		if err := rows.Scan(&r.Project, &r.Name, &spec, &status, &r.Revision, &r.Updated); err != nil {
			return nil, fmt.Errorf("list %s: %w", kind, d.explain(err))
		}
		r.Spec, r.Status = spec, status
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list %s: %w", kind, d.explain(err))
	}
	return out, nil
}

func listQuery(project, kind string, o store.ListOptions) (string, []any) {
	var q strings.Builder
	q.WriteString(`SELECT project, name, spec, status, revision, updated FROM resource WHERE kind = ?`)
	args := []any{kind}
	and := func(condition string, arg any) {
		q.WriteString(" AND " + condition)
		args = append(args, arg)
	}
	if project != "" {
		and("project = ?", project)
	}
	if o.Prefix != "" {
		and("name >= ?", o.Prefix)
		if end := prefixEnd(o.Prefix); end != "" {
			and("name < ?", end)
		}
	}
	order, beyond := " ASC", "name > ?"
	if o.Reverse {
		order, beyond = " DESC", "name < ?"
	}
	if o.After != "" {
		and(beyond, o.After)
	}
	q.WriteString(" ORDER BY project" + order + ", name" + order)
	if o.Limit > 0 {
		q.WriteString(" LIMIT ?")
		args = append(args, o.Limit)
	}
	return q.String(), args
}

// prefixEnd is the first text, as bytes, after all that begin with p; "" if there is none.
func prefixEnd(p string) string {
	b := []byte(p)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] < 0xff {
			b[i]++
			return string(b[:i+1])
		}
	}
	return ""
}

func check(r *store.Resource) error {
	for _, f := range []struct{ field, value string }{{"project", r.Project}, {"kind", r.Kind}, {"name", r.Name}} {
		switch {
		case f.value == "":
			return kemi.Errorf(kemi.ErrInvalid, "resource %s %q: %s is empty", r.Kind, r.Name, f.field)
		case len(f.value) > maxKey:
			return kemi.Errorf(kemi.ErrInvalid, "resource: %s %.40q… has %d bytes, more than %d", f.field, f.value, len(f.value), maxKey)
		case strings.ContainsRune(f.value, 0):
			return kemi.Errorf(kemi.ErrInvalid, "resource: %s %.40q holds a zero byte", f.field, f.value)
		}
	}
	if n := len(r.Spec) + len(r.Status); n > maxBody {
		return kemi.Errorf(kemi.ErrTooLarge, "resource %s %q: spec and status have %d bytes, more than %d", r.Kind, r.Name, n, maxBody)
	}
	if r.Spec != nil && !json.Valid(r.Spec) || r.Status != nil && !json.Valid(r.Status) {
		return kemi.Errorf(kemi.ErrInvalid, "resource %s %q: spec or status is not JSON", r.Kind, r.Name)
	}
	if r.Revision < store.AnyRevision {
		return kemi.Errorf(kemi.ErrInvalid, "resource %s %q: revision %d is negative", r.Kind, r.Name, r.Revision)
	}
	return nil
}
