package lines

import (
	"cmp"
	"context"
	"math/bits"
	"os"
	"slices"
	"strings"
	"time"

	"kemi"
	"kemi/pipeline/pattern"
	"kemi/pipeline/store"
)

const (
	// mergeParts are as many parts of about one size, one after another, as are merged at the least; maxMerge at the most.
	mergeParts = 8
	maxMerge   = 64
	// dropWithin is how long a block whose time is over may wait for others of its part.
	dropWithin = 24 * time.Hour
)

// sizeClass is the same for parts that differ by less than about four times.
func (p *part) sizeClass() int { return (bits.Len64(uint64(p.raw>>16)) + 1) / 2 }

// merge merges some parts, if there are that are worth it; more says that there may be others.
func (s *Store) merge() (more bool, err error) {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.trimCache()
	s.mu.RLock()
	parts := s.parts
	s.mu.RUnlock()
	some := s.mergeable(parts)
	if len(some) == 0 {
		return false, nil
	}
	var size int64
	for _, p := range some {
		size += int64(len(p.data))
	}
	if err := s.checkFree(size); err != nil {
		return false, err
	}
	return true, s.replace(some, nil)
}

// mergeable are the parts to be merged next: of the smallest size of which enough stand together.
func (s *Store) mergeable(parts []*part) []*part {
	top := 0
	for _, p := range parts {
		top = max(top, p.sizeClass())
	}
	for class := 0; class <= top; class++ {
		for from := 0; from < len(parts); {
			to, raw := from, int64(0)
			for to < len(parts) && to-from < maxMerge && parts[to].sizeClass() <= class && raw+parts[to].raw <= s.c.PartBytes {
				raw += parts[to].raw
				to++
			}
			if to-from >= mergeParts {
				return parts[from:to]
			}
			from = max(to, from+1)
		}
	}
	return nil
}

// change is what becomes of a block.
type change struct {
	drop    bool
	overdue bool           // it should have been dropped long ago
	without *pattern.Query // its records go
}

// replace writes the parts, which stand one after another, anew, as one: full blocks as they are, small ones of a project coded together. plan, if it is not nil, says what goes. changing is held.
func (s *Store) replace(old []*part, plan func(*block) change) error {
	w, err := s.newPart()
	if err != nil {
		return err
	}
	defer w.abandon()
	r := rewriter{s: s, w: w, join: len(old) > 1}
	var blocks []*block
	for _, p := range old {
		w.footer.Replaces = append(w.footer.Replaces, p.seq)
		for _, n := range p.footer.Replaces { // one that could not be removed must not come back
			if _, err := os.Lstat(partPath(s.dir, n)); err == nil {
				w.footer.Replaces = append(w.footer.Replaces, n)
			}
		}
		for k, n := range p.footer.Positions {
			w.footer.Positions[k] = max(w.footer.Positions[k], n)
		}
		blocks = append(blocks, p.blocks...)
	}
	// What may be coded together stands together, so that no more than that is in memory.
	slices.SortStableFunc(blocks, func(a, b *block) int {
		return cmp.Or(strings.Compare(a.Project, b.Project), cmp.Compare(a.day(), b.day()))
	})
	for _, b := range blocks {
		c := change{}
		if plan != nil {
			c = plan(b)
		}
		if err := r.block(b, c); err != nil {
			return err
		}
	}
	if err := r.flush(); err != nil {
		return err
	}
	fresh, err := w.finish()
	if err != nil {
		_ = os.Remove(partPath(s.dir, w.seq))
		return err
	}
	s.mu.Lock()
	at := slices.Index(s.parts, old[0]) // where the old ones were, so that neighbours in time stay neighbours
	s.parts = slices.Replace(slices.Clone(s.parts), at, at+len(old), fresh)
	s.measure()
	s.mu.Unlock()
	s.o.step("replaced")
	s.m.merges.Inc()
	s.m.deleted.Add(float64(r.deleted))
	for _, p := range old {
		if err := os.Remove(p.path); err != nil {
			s.o.Log.Warn("a part of the logs that has been replaced was not deleted", "part", p.path, "err", err)
		}
		s.o.step("removed")
		p.release()
	}
	return nil
}

// rewriter fills a part with what others hold.
type rewriter struct {
	s       *Store
	w       *partWriter
	join    bool             // small blocks are coded together
	small   []kemi.LogRecord // of blocks that are coded again, of one project and day
	raw     int64
	project string
	day     int64
	deleted int64
}

// day is the one that the block's newest record is of. Blocks of different days stay apart: else those of a quiet project, joined with newer ones again and
// again, would never be old enough to go.
func (b *block) day() int64 {
	const day = 24 * 3600e9
	n := int64(b.To) / day
	if int64(b.To)%day < 0 {
		n--
	}
	return n
}

// block takes a block over. One that is damaged goes with the part it is in: it was said already that its records are missing.
func (r *rewriter) block(b *block, c change) error {
	if b.Project != r.project || b.day() != r.day {
		if err := r.flush(); err != nil {
			return err
		}
		r.project, r.day = b.Project, b.day()
	}
	if c.drop {
		r.deleted += int64(b.Records)
		return nil
	}
	if c.without == nil && (!r.join || b.full()) {
		if err := r.w.copy(b); err == nil {
			return nil
		} else if b.check() == nil {
			return err
		}
		r.s.damage(b, errDamaged)
		return nil
	}
	pb, err := r.s.open(b)
	if err != nil {
		r.s.damage(b, err)
		return nil
	}
	gone := map[int]bool{}
	if c.without != nil {
		sel, err := c.without.Select(pb)
		if err == nil {
			err = sel.Times(func(row int, _ kemi.Nanos) bool { gone[row] = true; return true })
			sel.Close()
		}
		if err != nil {
			r.s.damage(b, err)
			return nil
		}
	}
	rows := make([]int, 0, b.Records)
	for i := range b.Records {
		if !gone[i] {
			rows = append(rows, i)
		}
	}
	r.deleted += int64(len(gone))
	records := make([]kemi.LogRecord, 0, len(rows))
	if err := pb.Records(rows, func(_ int, rec *kemi.LogRecord) bool { records = append(records, *rec); return true }); err != nil {
		r.s.damage(b, err)
		return nil
	}
	// IDs sort as the records came.
	slices.SortFunc(records, func(a, b kemi.LogRecord) int { return strings.Compare(a.ID, b.ID) })
	r.small = append(r.small, records...)
	if r.raw += b.Raw; r.raw >= blockRaw || len(r.small) >= fullRecords {
		return r.flush()
	}
	return nil
}

func (r *rewriter) flush() error {
	rs := r.small
	r.small, r.raw = nil, 0
	if len(rs) == 0 {
		return nil
	}
	return r.w.records([][]kemi.LogRecord{rs})
}

// Delete takes the records of the identity's project that the query selects away: when it returns, no answer has them, now or after a crash, and no part
// holds their text. It tells how many they were. What comes in while it works may stay. If it fails, some may be gone
// already; it fails, too, when something is damaged that may have such records.
func (s *Store) Delete(ctx context.Context, id kemi.Identity, lq store.LogQuery) (deleted int64, err error) {
	if id.Project == "" {
		return 0, kemi.Errorf(kemi.ErrDenied, "delete logs: the identity %q has no project", id.Subject)
	}
	if lq.Expr == nil {
		return 0, kemi.Errorf(kemi.ErrInvalid, "delete logs: a condition is needed")
	}
	if err := s.Sync(); err != nil {
		return 0, err
	}
	q := pattern.NewQuery(lq.Expr, lq.Range)
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.RLock()
	parts := s.parts
	s.mu.RUnlock()
	for _, p := range parts {
		hit := map[*block]bool{}
		for _, b := range p.blocks {
			if err := ctx.Err(); err != nil {
				return deleted, err
			}
			if b.Project != id.Project || b.To < lq.Range.From || b.From >= lq.Range.To {
				continue
			}
			pb, err := s.open(b)
			if err != nil {
				s.damage(b, err)
				continue
			}
			sel, err := q.Select(pb)
			if err != nil {
				s.damage(b, err)
				continue
			}
			if n := sel.Len(); n > 0 {
				hit[b] = true
				deleted += int64(n)
			}
			sel.Close()
		}
		if len(hit) == 0 {
			continue
		}
		err := s.replace([]*part{p}, func(b *block) change {
			if hit[b] {
				return change{without: q}
			}
			return change{}
		})
		if err != nil {
			return deleted, kemi.Errorf(kemi.ErrUnavailable, "delete logs: %w", err)
		}
	}
	if f := s.Freshness(); !f.Complete { // nobody can tell whether what is damaged has such records
		return deleted, kemi.Errorf(kemi.ErrConflict, "delete logs: %d records are deleted, but %s", deleted, f.Reason)
	}
	return deleted, nil
}

// retain drops what is too old, and the oldest while all together, or all of a project, is too large.
func (s *Store) retain() error {
	s.changing.Lock()
	defer s.changing.Unlock()
	s.mu.RLock()
	parts := s.parts
	s.mu.RUnlock()
	changes := s.expired(parts)
	for _, p := range parts {
		var gone int64
		worth := false
		for _, b := range p.blocks {
			c := changes[b]
			if c.drop {
				gone += b.Len
			}
			worth = worth || c.without != nil || c.overdue
		}
		// To write a part anew for little room would cost more than it gives; but nothing stays for long.
		if !worth && (gone == 0 || gone < int64(len(p.data))/8) {
			continue
		}
		if err := s.replace([]*part{p}, func(b *block) change { return changes[b] }); err != nil {
			return err
		}
	}
	return nil
}

// expired says what retention takes.
func (s *Store) expired(parts []*part) map[*block]change {
	now := kemi.NanosOf(s.o.Now())
	out := map[*block]change{}
	var left []*block
	sizes := map[string]int64{}
	var total int64
	for _, p := range parts {
		for _, b := range p.blocks {
			if over := now - kemi.Nanos(s.projectAge(b.Project)) - b.To; over > 0 {
				out[b] = change{drop: true, overdue: over > kemi.Nanos(dropWithin)}
				continue
			}
			left = append(left, b)
			total += b.Len
			sizes[b.Project] += b.Len
			if q := s.services(b, now); q != nil {
				out[b] = change{without: q}
			}
		}
	}
	slices.SortFunc(left, func(a, b *block) int { return cmp.Compare(a.To, b.To) })
	for i, b := range left {
		if i == len(left)-1 { // the newest stays, whatever it takes
			break
		}
		limit := s.projectBytes(b.Project)
		if total > s.c.RetentionBytes || limit > 0 && sizes[b.Project] > limit {
			out[b] = change{drop: true}
			total -= b.Len
			sizes[b.Project] -= b.Len
		}
	}
	return out
}

func (s *Store) projectAge(project string) time.Duration {
	for _, r := range s.c.Retentions {
		if r.Service == "" && r.Project == project && r.Age > 0 {
			return r.Age
		}
	}
	return s.c.Retention
}

func (s *Store) projectBytes(project string) int64 {
	for _, r := range s.c.Retentions {
		if r.Service == "" && r.Project == project && r.Bytes > 0 {
			return r.Bytes
		}
	}
	return 0
}

// services selects the records of the block of services whose time is over, once all of them in the block are; nil if there are none.
func (s *Store) services(b *block, now kemi.Nanos) *pattern.Query {
	var or store.LogOr
	seen := map[string]bool{}
	for _, r := range s.c.Retentions {
		if r.Service == "" || r.Project != "" && r.Project != b.Project || seen[r.Service] {
			continue
		}
		seen[r.Service] = true // the first that fits counts
		if r.Age > 0 && b.To < now-kemi.Nanos(r.Age) {
			or = append(or, serviceIs(r.Service))
		}
	}
	if len(or) == 0 || b.swept.Load() == int64(len(or)) {
		return nil
	}
	q := pattern.NewQuery(or, store.NanoRange{From: b.From, To: b.To + 1})
	pb, err := s.open(b)
	if err != nil {
		s.damage(b, err)
		return nil
	}
	sel, err := q.Select(pb)
	if err != nil {
		s.damage(b, err)
		return nil
	}
	defer sel.Close()
	if sel.Len() == 0 {
		b.swept.Store(int64(len(or)))
		return nil
	}
	return q
}

// serviceIs is the condition that the label service is exactly that.
func serviceIs(name string) store.LogExpr {
	return store.LogRange{Field: "service", Min: &name, Max: &name}
}
