package head

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kemi"
)

// Receivers ask for room before they acknowledge; what was acknowledged is always taken. A place that was taken is pending until the store has made
// the series, and counts meanwhile. How many series there are is counted a few times a second at most; what was made since is added. A series goes
// from the places to the series in one step, at the end of the batch that made it: so it counts once at any moment.

const (
	// recount is how long a count of a project's series is good.
	recount = 200 * time.Millisecond
	// pendingFor is how long places stay pending when nothing happens any more: their requests failed.
	pendingFor = 10 * time.Second
	// explainAgain is how long an explanation is good: to find out which label has exploded is to look at many series.
	explainAgain = 10 * time.Second
	// looked is at how many series an explanation looks, spread evenly over all.
	looked = 50_000
	// topValues is how many values of the label it names.
	topValues = 3
	// remembered is about how many series that wait are remembered by their labels.
	remembered = 4096
)

// limits is what is known of how many series there are.
type limits struct {
	mu       sync.Mutex
	all      room
	projects map[string]*room

	made int64 // series of the batch that is being appended for which a place was taken; under appendMu
}

// room is the series of a project, or of all.
type room struct {
	series  int64     // that were made, as far as is known
	pending int64     // places that were taken for others
	used    time.Time // when one was taken or made last
	counted time.Time // when series was counted; it is right from then on, but for series that ended

	waiting waiting // of a project

	explainMu sync.Mutex
	explained time.Time
	why       string
}

// take takes a place if there are less than limit series and places.
func (r *room) take(limit uint64, now time.Time, open bool) bool {
	if open && now.Sub(r.used) > pendingFor { // before, records may wait for the head longer than that
		r.pending = 0
	}
	if uint64(r.series+r.pending) >= limit {
		return false
	}
	r.pending++
	r.used = now
	return true
}

// fill says that series were made, places of them on places that were taken.
func (r *room) fill(series, places int64, now time.Time) {
	r.series += series
	if places > 0 {
		r.pending = max(0, r.pending-places)
		r.used = now
	}
}

// waiting are the series that were let in but are not made yet, every so many of them by its labels: they may be what has exploded.
type waiting struct {
	labels []kemi.Labels
	every  int64
	n      int64     // how many came since there were none
	last   time.Time // when one came
}

// note is told of each series that is let in.
func (w *waiting) note(ls kemi.Labels, limit uint64, now time.Time, open bool) {
	if open && now.Sub(w.last) > pendingFor {
		*w = waiting{}
	}
	if w.n == 0 {
		w.every = max(1, int64(min(limit, math.MaxInt64)/remembered))
	}
	w.last = now
	if w.n++; w.n%w.every == 0 {
		if len(w.labels) >= 2*remembered { // more than the limit: requests come to nothing
			w.labels = w.labels[:copy(w.labels, w.labels[remembered:])]
		}
		own := make(kemi.Labels, len(ls))
		for i, l := range ls {
			own[i] = kemi.Label{Name: strings.Clone(l.Name), Value: strings.Clone(l.Value)}
		}
		w.labels = append(w.labels, own)
	}
}

// made says that places of them are series now.
func (w *waiting) made(places int64) {
	if w.n -= places; w.n <= 0 {
		*w = waiting{}
		return
	}
	if gone := int64(len(w.labels)) - w.n/w.every; gone > 0 { // those that came first
		w.labels = w.labels[:copy(w.labels, w.labels[gone:])]
	}
}

// of is the room of a project.
func (l *limits) of(project string) *room {
	r := l.projects[project]
	if r == nil {
		if l.projects == nil {
			l.projects = map[string]*room{}
		}
		r = &room{}
		l.projects[project] = r
	}
	return r
}

// Room takes a place for one more series of the project, for receivers; see codec.SeriesLimit.
func (db *DB) Room(project string, ls kemi.Labels) error {
	now, open, perProject := db.now(), db.isOpen(), db.cfg.MaxSeriesPerProject > 0
	if open {
		db.recount(project, now)
	}
	l := &db.limits
	l.mu.Lock()
	own := l.of(project)
	limit, whose, key := db.cfg.MaxSeries, "of all projects together", "metrics.maxSeries"
	ok := l.all.take(limit, now, open)
	if ok && perProject {
		if ok = own.take(db.cfg.MaxSeriesPerProject, now, open); !ok {
			l.all.pending--
			limit, whose, key = db.cfg.MaxSeriesPerProject, "of project "+project, "metrics.maxSeriesPerProject"
		}
	}
	var also waiting
	if ok {
		least := db.cfg.MaxSeries
		if perProject {
			least = min(least, db.cfg.MaxSeriesPerProject)
		}
		own.waiting.note(ls, least, now, open)
	} else {
		also = waiting{labels: slices.Clone(own.waiting.labels), every: own.waiting.every}
	}
	l.mu.Unlock()
	if ok {
		return nil
	}
	db.m.overLimit.Inc()
	return kemi.Errorf(kemi.ErrLimited, "the limit of %d active series %s (%s) is reached%s; let senders drop or relabel it, or raise the limit",
		limit, whose, key, db.explain(own, project, also, now))
}

// filled says that the batch of a project has been appended, which made so many series. appendMu is held.
func (db *DB) filled(project string, made int64) {
	places := db.limits.made
	db.limits.made = 0
	// Others may have been let go of meanwhile. Then it is counted anew in a moment; until then it is rather too many.
	series := max(made, places)
	if series == 0 {
		return
	}
	now, l := db.now(), &db.limits
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.fill(series, places, now)
	l.of(project).waiting.made(places)
	if db.cfg.MaxSeriesPerProject > 0 {
		l.of(project).fill(series, places, now)
	}
}

// Has tells whether the series is in memory.
func (db *DB) Has(project string, ls kemi.Labels) bool {
	if !db.isOpen() {
		return false
	}
	if ls.Has(ProjectLabel) { // it is nobody's to say
		ls = slices.DeleteFunc(slices.Clone(ls), func(l kemi.Label) bool { return l.Name == ProjectLabel })
	}
	var room [64]uint32
	db.mu.RLock()
	defer db.mu.RUnlock()
	sp := db.byName[project]
	if sp == nil {
		return false
	}
	pairs, ok := sp.known(room[:0], ls)
	if !ok {
		return false
	}
	_, ok = db.find(sp, pairs, hashOf(pairs))
	return ok
}

// recount counts the series of all, and of a project, if it is time.
func (db *DB) recount(project string, now time.Time) {
	l := &db.limits
	l.mu.Lock()
	r := &l.all
	if db.cfg.MaxSeriesPerProject > 0 {
		r = l.of(project)
	}
	counted := r.counted
	l.mu.Unlock()
	if now.Sub(counted) < recount {
		return
	}
	// Nothing is made meanwhile, so nothing counts twice. If something is, what is known will do, unless nothing is.
	if counted.IsZero() {
		db.appendMu.Lock()
	} else if !db.appendMu.TryLock() {
		return
	}
	defer db.appendMu.Unlock()
	all, own := db.seriesOf(project)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all.series, l.all.counted = all, now
	if db.cfg.MaxSeriesPerProject > 0 {
		r.series, r.counted = own, now
	}
}

// seriesOf is how many series are in memory, and how many of them are a project's.
func (db *DB) seriesOf(project string) (all, own int64) {
	db.mu.RLock()
	defer db.mu.RUnlock()
	if sp := db.byName[project]; sp != nil {
		own = int64(len(sp.ids))
	}
	return db.alive.Load(), own
}

// explain says what takes the room of a project: ": most of them …", or nothing if that cannot be said.
func (db *DB) explain(r *room, project string, also waiting, now time.Time) string {
	r.explainMu.Lock()
	defer r.explainMu.Unlock()
	if now.Sub(r.explained) >= explainAgain || r.explained.IsZero() {
		r.explained = now
		r.why = ""
		if db.isOpen() {
			r.why = db.whatExploded(project, also)
		}
	}
	return r.why
}

// whatExploded names the metric that most series of the project have, those that wait included, and, as far as some of those tell, spread evenly over all, the
// label with most values among them and its most frequent ones.
func (db *DB) whatExploded(project string, also waiting) string {
	db.mu.RLock()
	sp := db.byName[project]
	db.mu.RUnlock()
	coming := map[string]int64{}
	for _, ls := range also.labels {
		coming[ls.Get(kemi.MetricName)] += also.every
	}
	metric, ids, made := db.largestMetric(sp, coming)
	all := made + coming[metric]
	if all == 0 {
		return ""
	}
	_, total := db.seriesOf(project)
	total += int64(len(also.labels)) * also.every
	out := fmt.Sprintf(": %d of %d series of project %s have the metric %q", all, total, project, metric)
	byLabel := map[string]map[string]int64{} // how many series have each value
	add := func(name, value string, n int64) {
		if byLabel[name] == nil {
			byLabel[name] = map[string]int64{}
		}
		byLabel[name][value] += n
	}
	values, seen := db.valuesOf(sp, ids)
	step := max(1, made/max(1, seen))
	for name, cs := range values {
		for _, c := range cs {
			add(name, c.value, int64(c.n)*step)
		}
	}
	for _, ls := range also.labels {
		if ls.Get(kemi.MetricName) != metric {
			continue
		}
		seen++
		for _, l := range ls {
			if l.Name != kemi.MetricName {
				add(l.Name, l.Value, also.every)
			}
		}
	}
	label := ""
	for name, v := range byLabel {
		if label == "" || len(v) > len(byLabel[label]) || len(v) == len(byLabel[label]) && name < label {
			label = name
		}
	}
	if label == "" {
		return out
	}
	var top []counted
	for v, n := range byLabel[label] {
		top = append(top, counted{value: v, n: uint64(n)})
	}
	distinct, about := int64(len(top)), ""
	switch {
	case seen >= all:
	case distinct > seen/2: // nearly each series has one of its own, and so have those that were not looked at
		distinct, about = distinct*all/seen, "about "
	default:
		about = "at least "
	}
	slices.SortFunc(top, func(a, b counted) int { return cmp.Or(cmp.Compare(b.n, a.n), strings.Compare(a.value, b.value)) })
	how := "most often"
	if about == "about " {
		how = "such as" // which ones the others have that were not looked at is not known
	}
	out += fmt.Sprintf(", where label %q has %s%d values, %s ", label, about, distinct, how)
	for i, c := range top[:min(topValues, len(top))] {
		if i > 0 {
			out += ", "
		}
		v := c.value
		if len(v) > 64 {
			v = strings.ToValidUTF8(v[:64], "") + "…"
		}
		if out += strconv.Quote(v); how == "most often" {
			out += " (" + strconv.FormatUint(c.n, 10) + " series)"
		}
	}
	return out
}

// largestMetric is the metric that most series have, with those that are coming, how many have it already, and some of these.
func (db *DB) largestMetric(sp *space, coming map[string]int64) (metric string, ids []uint32, made int64) {
	most := int64(0)
	for name, n := range coming {
		if n > most || n == most && name < metric {
			metric, most = name, n
		}
	}
	if sp == nil {
		return metric, nil, 0
	}
	db.mu.RLock()
	defer db.mu.RUnlock()
	n := sp.names[kemi.MetricName]
	if n == nil {
		return metric, nil, 0
	}
	var p *pair
	for _, i := range n.values {
		x := &sp.pairs[i]
		if all := int64(x.len()) + coming[x.value]; x.any && (all > most || all == most && (p == nil && x.value <= metric || p != nil && x.value < p.value)) {
			p, metric, most = x, x.value, all
		}
	}
	if p == nil {
		return metric, nil, 0
	}
	step := max(1, p.len()/looked)
	ids = append(ids, p.first)
	for i := step; i < p.len(); i += step {
		ids = append(ids, p.more[i-1])
	}
	return metric, ids, int64(p.len())
}

// valuesOf counts the values of each label of some series but the metric, and how many series there were.
func (db *DB) valuesOf(sp *space, ids []uint32) (values map[string][]counted, seen int64) {
	byPair := map[uint32]uint64{}
	for len(ids) > 0 {
		n := min(statusStep, len(ids))
		db.mu.RLock()
		for _, id := range ids[:n] {
			if s := db.there(id); s != nil {
				seen++
				for _, p := range db.pairsOf(s) {
					byPair[p]++
				}
			}
		}
		db.mu.RUnlock()
		ids = ids[n:]
	}
	values = map[string][]counted{}
	db.mu.RLock()
	defer db.mu.RUnlock()
	for i, n := range byPair {
		if p := &sp.pairs[i]; p.any && p.name != kemi.MetricName {
			values[p.name] = append(values[p.name], counted{value: p.value, n: n})
		}
	}
	return values, seen
}
