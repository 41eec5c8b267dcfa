package merge

import (
	"context"
	"runtime"
	"sync"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
)

// walk goes through the series of the live store and of the settled blocks in the order of their labels. The caller's goroutine joins the two and
// hands each series to workers, which read; what comes back it yields in order, the oldest as soon as there are too many under way.
type walk struct {
	s       *Store
	project string
	sel     store.Selector
	r       kemi.Range
	trace   *store.Trace
	keep    bool                           // labels that are yielded stay
	work    func(rd *batch.Reader, j *job) // of a worker
	yield   func(j *job) (bool, error)     // of the caller

	view    *batch.View
	set     *batch.Set
	more    bool  // set is at a series
	points  int64 // that a series may have
	perLot  int   // series
	ahead   int   // lots that may be under way
	todo    chan *lot
	workers sync.WaitGroup
	started int
	alone   *batch.Reader // of the caller, if there is so little to read that to hand it on costs more
	few     bool
	lived   bool   // series of the live store alone had samples
	lot     *lot   // that is being filled
	under   []*lot // way, in order
	free    []*lot
}

// lot is some series that follow one another: a page of a block has several, and is unpacked once for all of them.
type lot struct {
	jobs []*job
	left int // jobs that a worker has to do
	done chan struct{}
}

// job is one series on its way.
type job struct {
	labels kemi.Labels
	series *batch.Series // nil: nothing is settled
	own    batch.Series  // what series points to
	live   settled.Columns
	cols   settled.Columns // what it is read into
	merged settled.Columns
	red    store.Reducer
	down   store.Down
	err    error
}

// jobs are used again: what a question reads its series into would be garbage each time.
var jobs = sync.Pool{New: func() any { return new(job) }}

// release gives the job back. It holds on to nothing but room for numbers.
func (j *job) release() {
	clear(j.labels[:cap(j.labels)])
	clear(j.own.Labels[:cap(j.own.Labels)])
	clear(j.own.Parts[:cap(j.own.Parts)])
	j.series, j.down, j.err = nil, store.Down{}, nil
	jobs.Put(j)
}

const (
	// maxWorkers is how many series are read at the same time at most, by one question.
	maxWorkers = 8
	// maxLot is how many series a worker is given at once at most.
	maxLot = 16
	// usualStep is how far samples are apart in most places, in milliseconds.
	usualStep = 15_000
	// fewSeries and fewSamples are up to how many the caller reads itself: to wake a worker takes as long.
	fewSeries, fewSamples = maxLot, 1 << 14
	// lotPoints is how many points all that is under way may have, as far as that is known beforehand.
	lotPoints = 4 << 20
)

// begin takes the view, once. The live store has been opened before.
func (w *walk) begin() (err error) {
	if w.view != nil {
		return nil
	}
	w.view = w.s.layer.Acquire()
	if w.set, err = w.view.Select(w.project, w.sel, w.r); err != nil {
		return err
	}
	w.size()
	return w.step()
}

// size decides how many series a lot has: so many that all workers have some, and not more than fit into the memory.
func (w *walk) size() {
	n := min(maxLot, w.set.Len()/(2*w.ahead))
	if w.points > 0 {
		n = min(n, int(lotPoints/int64(w.ahead+1)/w.points))
	}
	w.perLot = max(1, n)
	samples := int64(w.r.To-w.r.From) / usualStep
	w.few = w.set.Len() <= fewSeries && int64(w.set.Len())*samples <= fewSamples
}

func (w *walk) step() error {
	w.more = w.set.Next()
	return w.set.Err()
}

// run walks. live calls its argument for each series of the live store, with samples if the walk is about samples.
func (w *walk) run(ctx context.Context, live func(each eachSeries) error) (err error) {
	n := min(maxWorkers, runtime.GOMAXPROCS(0))
	w.ahead = 2 * n
	w.todo = make(chan *lot, w.ahead+1)
	if w.points == 0 { // of samples: as many as in most places
		w.points = int64(w.r.To-w.r.From) / usualStep
	}
	defer func() {
		close(w.todo)
		w.workers.Wait() // before the view goes
		if w.alone != nil {
			w.close(w.alone)
		}
		w.release()
		if w.lived {
			w.trace.Note("speed", w.s.live.Freshness().AsOf)
		}
		if w.view != nil {
			w.view.Release()
		}
	}()
	stopped := false
	err = live(func(ls kemi.Labels, at []kemi.Millis, values []float64) (ok bool, err error) {
		defer func() { stopped = !ok }()
		if err := w.begin(); err != nil {
			return false, err
		}
		if ok, err := w.before(ctx, ls); err != nil || !ok {
			return false, err
		}
		var bs *batch.Series
		if w.more && w.set.At().Labels.Compare(ls) == 0 {
			bs = w.set.At()
		}
		if ok, err := w.add(ctx, ls, bs, at, values); err != nil || !ok || bs == nil {
			return ok, err
		}
		return true, w.step()
	})
	if err != nil || stopped {
		return err
	}
	if w.r.From >= w.r.To {
		return nil
	}
	if err := w.begin(); err != nil {
		return err
	}
	if ok, err := w.before(ctx, nil); err != nil || !ok {
		return err
	}
	if w.lot != nil {
		if ok, err := w.send(ctx); err != nil || !ok {
			return err
		}
	}
	for len(w.under) > 0 {
		if ok, err := w.take(); err != nil || !ok {
			return err
		}
	}
	return nil
}

// release gives back what the question worked with.
func (w *walk) release() {
	lots := append(w.under, w.free...)
	if w.lot != nil {
		lots = append(lots, w.lot)
	}
	for _, l := range lots {
		for _, j := range l.jobs[:cap(l.jobs)] {
			if j == nil {
				break // it was never filled up to here
			}
			if w.keep {
				j.labels = nil
			}
			j.release()
		}
	}
}

// before adds the settled series that come before ls (nil: all that are left).
func (w *walk) before(ctx context.Context, ls kemi.Labels) (bool, error) {
	for w.more && (ls == nil || w.set.At().Labels.Compare(ls) < 0) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		bs := w.set.At()
		if ok, err := w.add(ctx, bs.Labels, bs, nil, nil); err != nil || !ok {
			return false, err
		}
		if err := w.step(); err != nil {
			return false, err
		}
	}
	return true, nil
}

// add adds a series to the lot.
func (w *walk) add(ctx context.Context, ls kemi.Labels, bs *batch.Series, at []kemi.Millis, values []float64) (bool, error) {
	if w.lot == nil {
		if n := len(w.free); n > 0 {
			w.lot, w.free = w.free[n-1], w.free[:n-1]
		} else {
			w.lot = &lot{jobs: make([]*job, 0, w.perLot), done: make(chan struct{}, 1)}
		}
	}
	l := w.lot
	l.jobs = l.jobs[:len(l.jobs)+1]
	j := l.jobs[len(l.jobs)-1]
	if j == nil {
		j = jobs.Get().(*job)
		l.jobs[len(l.jobs)-1] = j
	}
	if w.keep {
		j.labels = nil
	}
	j.labels, j.series, j.err = append(j.labels[:0], ls...), nil, nil
	j.live.Reset()
	j.live.At, j.live.Values = append(j.live.At, at...), append(j.live.Values, values...)
	if bs != nil {
		bs.CopyTo(&j.own)
		j.series = &j.own
		l.left++
	} else { // what is left to do is less than to hand it on
		w.work(nil, j)
		w.lived = w.lived || len(j.live.At) > 0 || len(j.cols.At) > 0
	}
	if len(l.jobs) < w.perLot {
		return true, nil
	}
	return w.send(ctx)
}

// send hands the lot to the workers.
func (w *walk) send(ctx context.Context) (bool, error) {
	for len(w.under) >= w.ahead {
		if ok, err := w.take(); err != nil || !ok {
			return ok, err
		}
	}
	l := w.lot
	w.lot = nil
	w.under = append(w.under, l)
	if l.left == 0 {
		l.done <- struct{}{}
		return true, nil
	}
	if w.few {
		if w.alone == nil {
			w.alone = w.view.NewReader()
		}
		w.lived = w.do(ctx, w.alone, l) || w.lived
		return true, nil
	}
	if 2*w.started < w.ahead {
		w.started++
		w.workers.Go(func() { w.loop(ctx) })
	}
	w.todo <- l
	return true, nil
}

// take yields the oldest lot that is under way.
func (w *walk) take() (ok bool, err error) {
	l := w.under[0]
	<-l.done
	w.under = w.under[1:]
	w.free = append(w.free, l)
	for _, j := range l.jobs {
		if j.err != nil {
			return false, j.err
		}
		if ok, err = w.yield(j); err != nil || !ok {
			return ok, err
		}
	}
	l.jobs, l.left = l.jobs[:0], 0
	return true, nil
}

// loop is a worker.
func (w *walk) loop(ctx context.Context) {
	rd := w.view.NewReader()
	live := false
	for l := range w.todo {
		live = w.do(ctx, rd, l) || live
	}
	if live {
		w.trace.Note("speed", w.s.live.Freshness().AsOf)
	}
	w.close(rd)
}

// do does what is left to do of a lot, and tells whether live samples were among it.
func (w *walk) do(ctx context.Context, rd *batch.Reader, l *lot) (live bool) {
	for _, j := range l.jobs {
		if j.series == nil {
			continue
		}
		if j.err = ctx.Err(); j.err == nil {
			live = live || len(j.live.At) > 0
			w.work(rd, j)
		}
	}
	l.done <- struct{}{}
	return live
}

// close says which views a reader has read, and gives it back.
func (w *walk) close(rd *batch.Reader) {
	for level, n := range rd.Levels {
		if n > 0 {
			w.trace.Note(viewName(level), w.view.AsOf())
		}
	}
	rd.Close()
}

// readRaw reads the samples of a job: settled ones and live ones, each once. Stale markers are dropped unless they are wanted.
func (w *walk) readRaw(rd *batch.Reader, j *job, stale bool) {
	j.cols.Reset()
	if j.series == nil {
		j.cols, j.live = j.live, j.cols
		return
	}
	if j.err = rd.Read(j.series, w.r, &j.cols); j.err != nil {
		return
	}
	if len(j.cols.At) > 0 {
		rd.Levels[0]++
	}
	c, l := &j.cols, &j.live
	switch {
	case len(l.At) == 0:
	case len(c.At) == 0 || c.At[len(c.At)-1] < l.At[0]:
		c.At, c.Values = append(c.At, l.At...), append(c.Values, l.Values...)
	default:
		j.merged.Reset()
		batch.MergeColumns(&j.merged, c.At, c.Values, l.At, l.Values)
		j.cols, j.merged = j.merged, j.cols
	}
	if !stale { // only now: a settled one hides what else there is for its time
		j.cols.DropStale()
	}
}
