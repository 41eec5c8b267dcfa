package query

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"kemi"
	"kemi/sauron/tsdhttp"
)

// journal knows the queries that run, and the last ones that have ended.
type journal struct {
	mu    sync.Mutex
	runs  map[*entry]struct{}
	ended [100]*entry // a ring
	next  int
}

// entry is one query. Its fields from end on are set once, under the journal's lock.
type entry struct {
	project, subject, remote, host, agent string
	request                               Request
	begin, end                            time.Time
	status                                int
	exception                             string
	stats                                 Stats
	running                               int // with it, when it ended
}

// maxKept is how many bytes of its filters and TSUIDs an entry keeps; it does without its queries if they have more.
const maxKept = 16 << 10

func (j *journal) begin(x *tsdhttp.Exchange, r *Request, now time.Time) *entry {
	n := &entry{project: x.ID.Project, subject: x.ID.Subject, remote: x.R.RemoteAddr, host: tsdhttp.Clip(x.R.Host), agent: tsdhttp.Clip(x.R.UserAgent()), request: *r, begin: now}
	size := 0
	for _, q := range r.Queries {
		size += len(q.Metric) + len(q.Downsample)
		for _, f := range q.Filters {
			size += len(f.Tagk) + len(f.Filter) + 64
		}
		for _, id := range q.TSUIDs {
			size += len(id)
		}
	}
	if n.request.Queries = nil; size <= maxKept {
		n.request.Queries = slices.Clone(r.Queries)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.runs == nil {
		j.runs = map[*entry]struct{}{}
	}
	j.runs[n] = struct{}{}
	return n
}

func (j *journal) done(n *entry, stats Stats, err error, now time.Time) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n.end, n.stats, n.status, n.running = now, stats, http.StatusOK, len(j.runs)
	if err != nil {
		n.status, n.exception = tsdhttp.Status(err), tsdhttp.Clip(err.Error())
	}
	delete(j.runs, n)
	j.ended[j.next%len(j.ended)] = n
	j.next++
}

// of are a project's queries: those that run, longest first, and those that have ended, newest first.
func (j *journal) of(project string) (running, ended []*entry) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for n := range j.runs {
		if n.project == project {
			running = append(running, n)
		}
	}
	slices.SortFunc(running, func(a, b *entry) int { return cmp.Or(a.begin.Compare(b.begin), cmp.Compare(a.remote, b.remote)) })
	for i := range j.ended {
		if n := j.ended[(j.next+len(j.ended)-1-i)%len(j.ended)]; n != nil && n.project == project {
			ended = append(ended, n)
		}
	}
	return running, ended
}

// serveJournal answers stats/query with the project's queries, in OpenTSDB's fields.
func (e *Engine) serveJournal(x *tsdhttp.Exchange) error {
	running, ended := e.journal.of(x.ID.Project)
	now, runs, ends := e.o.Now(), []any{}, []any{}
	for _, n := range running {
		runs = append(runs, map[string]any{
			"query": n.shown(), "remote": n.remote, "user": n.subject, "headers": n.headers(),
			"queryStart": kemi.MillisOf(n.begin), "elapsed": inMillis(now.Sub(n.begin)),
		})
	}
	for _, n := range ended {
		ends = append(ends, map[string]any{
			"query": n.shown(), "user": n.subject, "requestHeaders": n.headers(), "exception": cmp.Or(n.exception, "null"), "executed": 1,
			"httpResponse":            map[string]any{"code": n.status, "reasonPhrase": http.StatusText(n.status)},
			"queryStartTimestamp":     kemi.MillisOf(n.begin),
			"queryCompletedTimestamp": kemi.MillisOf(n.end), "numRunningQueries": n.running, "sentToClient": true,
			"stats": map[string]any{"totalTime": inMillis(n.end.Sub(n.begin)), "rowsPostFilter": n.stats.Series, "dpsPostFilter": n.stats.Samples, "emittedDPs": n.stats.Points},
		})
	}
	return x.JSON(map[string]any{"running": runs, "completed": ends})
}

func inMillis(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// headers are those of the request that tell of the client, and of nothing secret.
func (n *entry) headers() map[string]string {
	return map[string]string{"Host": n.host, "User-Agent": n.agent}
}

func (n *entry) shown() map[string]any {
	r, queries := &n.request, []any{}
	for i := range r.Queries {
		queries = append(queries, shownQuery(r, i))
	}
	return map[string]any{
		"start": text(r.Start), "end": text(r.End), "timezone": orNull(r.Timezone), "options": nil, "padding": r.Padding != "", "queries": queries,
		"delete": r.Delete, "globalAnnotations": r.GlobalAnnotations, "noAnnotations": r.NoAnnotations, "msResolution": r.MsResolution,
		"showQuery": r.ShowQuery, "showStats": r.ShowStats, "showSummary": r.ShowSummary, "showTSUIDs": r.ShowTSUIDs, "useCalendar": r.UseCalendar,
	}
}

func text(at kemi.Millis) string { return strconv.FormatInt(int64(at), 10) }

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
