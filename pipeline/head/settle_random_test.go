package head

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"kemi"
	"kemi/pipeline/codec"
	"kemi/pipeline/store"
	"kemi/pipeline/storetest"
)

// settled is a sample by series and time.
type settledKey struct {
	name string
	at   int64
}

// settleModel is what there should be: of several values for one time the first.
type settleModel struct {
	*settleTest
	rnd     *rand.Rand
	first   map[settledKey]float64
	sent    map[settledKey]int // how often; what comes again after it is settled may be in both
	settled map[settledKey]float64
	log     [][]kemi.Points
	source  string
	content map[settledKey]float64 // of the source, once it was read; nil = it was not
	did     []string
}

func (m *settleModel) note(format string, args ...any) {
	m.did = append(m.did, fmt.Sprintf(format, args...))
	if len(m.did) > 25 {
		m.did = m.did[1:]
	}
}

func (m *settleModel) fail(format string, args ...any) {
	m.Helper()
	for _, d := range m.did {
		m.Log(d)
	}
	m.Fatalf(format, args...)
}

// send appends the n-th batch of the log.
func (m *settleModel) send(n int) {
	m.Helper()
	ps := m.log[n]
	for _, p := range ps {
		for _, at := range p.At {
			m.sent[settledKey{p.Labels.Get(kemi.MetricName), int64(at)}]++
		}
	}
	err := m.db.Append(m.Context(), m.table.BatchOf("default", ps), store.Position{Next: int64(n + 1)})
	if errors.Is(err, codec.ErrLabelsWanted) {
		err = m.db.Append(m.Context(), codec.NewTable(nil, time.Now).BatchOf("default", ps), store.Position{Next: int64(n + 1)})
	}
	if err != nil {
		m.fail("append: %v", err)
	}
}

func (m *settleModel) append() {
	m.Helper()
	var ps []kemi.Points
	for range 1 + m.rnd.IntN(4) {
		p := kemi.Points{Labels: kemi.LabelsOf(kemi.MetricName, fmt.Sprintf("m%02d", len(m.log)/20+m.rnd.IntN(6)))} // old ones rest
		at := m.clock.now.UnixMilli()
		for range 1 + m.rnd.IntN(60) {
			switch m.rnd.IntN(8) {
			case 0: // late, by a little or by much
				at = m.clock.now.UnixMilli() - m.rnd.Int64N(1<<m.rnd.IntN(26))
			case 1: // as it was, or again
			default:
				at = m.clock.now.UnixMilli() + 1 + m.rnd.Int64N(3000)
			}
			if now := time.UnixMilli(at); now.After(m.clock.now) {
				m.clock.now = now
			}
			k := settledKey{p.Labels.Get(kemi.MetricName), at}
			v := math.Round(m.rnd.NormFloat64()*1000) / 10
			if _, ok := m.first[k]; !ok {
				m.first[k] = v
			} else if m.rnd.IntN(2) == 0 {
				v = m.first[k]
			}
			p.At, p.Values = append(p.At, kemi.Millis(at)), append(p.Values, v)
		}
		ps = append(ps, p)
	}
	m.log = append(m.log, ps)
	m.note("append %d", len(m.log))
	m.send(len(m.log) - 1)
}

// collect is all that yields, each time of a series once and in order.
func (m *settleModel) collect(seq func(yield func(kemi.Labels, []kemi.Millis, []float64))) map[settledKey]float64 {
	m.Helper()
	out := map[settledKey]float64{}
	seq(func(ls kemi.Labels, at []kemi.Millis, values []float64) {
		for i := range at {
			if i > 0 && at[i] <= at[i-1] {
				m.fail("%s: %d after %d", ls, at[i], at[i-1])
			}
			k := settledKey{ls.Get(kemi.MetricName), int64(at[i])}
			if _, ok := out[k]; ok {
				m.fail("%v twice", k)
			}
			out[k] = values[i]
		}
	})
	return out
}

func (m *settleModel) readSource() {
	m.Helper()
	src, ok := m.due()
	if !ok {
		return
	}
	m.note("read %s", src.ID)
	got := m.collect(func(yield func(kemi.Labels, []kemi.Millis, []float64)) {
		for x, err := range m.db.ReadSource(m.Context(), src.ID) {
			if err != nil {
				m.fail("read: %v", err)
			}
			yield(x.Labels, x.At, x.Values)
		}
	})
	for k := range got {
		if m.source != src.ID && !src.Range.Contains(kemi.Millis(k.at)) {
			m.fail("%v is out of the range of its source %v", k, src)
		}
	}
	if m.source == src.ID && m.content != nil && !maps.Equal(got, m.content) {
		m.fail("read again, a source has changed: %d samples, before %d", len(got), len(m.content))
	}
	m.source, m.content = src.ID, got
}

// take has what was read of the source settled: what is settled already stays.
func (m *settleModel) take() {
	for k, v := range m.content {
		if _, ok := m.settled[k]; !ok {
			m.settled[k] = v
		}
	}
	m.content = nil
}

func (m *settleModel) check() {
	m.Helper()
	live := m.collect(func(yield func(kemi.Labels, []kemi.Millis, []float64)) {
		for p, err := range m.db.Select(m.Context(), reader, nil, kemi.Range{From: math.MinInt64, To: math.MaxInt64}) {
			if err != nil {
				m.fail("select: %v", err)
			}
			yield(p.Labels, p.At, p.Values)
		}
	})
	for k, want := range m.first {
		settled, a := m.settled[k]
		shown, b := live[k]
		switch {
		case !a && !b:
			m.fail("%v is lost", k)
		case a && settled != want:
			m.fail("%v is settled as %v, want %v", k, settled, want)
		case !a && shown != want:
			m.fail("%v is %v, want %v", k, shown, want)
		case a && b && m.sent[k] == 1:
			m.fail("%v was sent once, is settled, and there still", k)
		}
	}
	for k := range live {
		if _, ok := m.first[k]; !ok {
			m.fail("%v was never sent", k)
		}
	}
}

// TestSettleRandomly: whatever comes when, and whenever it crashes, what is settled and what is live is all there is, each once.
func TestSettleRandomly(t *testing.T) {
	seed := storetest.Seed(t)
	for round := range uint64(4) {
		m := &settleModel{settleTest: newSettleTest(t), rnd: rand.New(rand.NewPCG(seed, round)), first: map[settledKey]float64{}, sent: map[settledKey]int{}, settled: map[settledKey]float64{}}
		m.db.chunks.max = maxRecord + 3000
		var readers []func() error
		for range storetest.Steps(250) {
			switch n := m.rnd.IntN(20); n {
			case 0:
				before := m.clock.now.UnixMilli() - m.rnd.Int64N(1<<m.rnd.IntN(25)) + m.rnd.Int64N(100)
				m.note("flush before %d", before)
				if _, err := m.db.Flush(t.Context(), kemi.Millis(before)); err != nil {
					m.fail("flush: %v", err)
				}
			case 1, 2:
				m.readSource()
			case 3, 4:
				if m.content != nil {
					m.note("retire %s", m.source)
					m.take()
					m.retire(m.source)
					m.check()
				}
			case 5:
				m.note("checkpoint")
				if err := m.db.Sync(t.Context()); err != nil {
					m.fail("checkpoint: %v", err)
				}
			case 6: // somebody who goes on reading
				q := mustQuery(t, m.db, math.MinInt64/2, math.MaxInt64/2)
				m.note("a reader begins")
				readers = append(readers, q.Close)
			case 7:
				for _, f := range readers {
					if err := f(); err != nil {
						m.fail("close: %v", err)
					}
				}
				readers = nil
			case 8:
				var retired []string
				if m.content != nil && m.rnd.IntN(2) == 0 { // the manifest has it already
					m.take()
					retired = append(retired, m.source)
				}
				m.source, m.content = "", nil
				from := int(m.db.Positions()[0])
				m.note("crash, retired %q, replay from %d of %d", retired, from, len(m.log))
				for _, f := range readers {
					_ = f()
				}
				readers = nil
				m.crash(retired...)
				m.db.chunks.max = maxRecord + 3000
				if p := int(m.db.Positions()[0]); p != from {
					m.fail("replay from %d, want %d", p, from)
				}
				for i := from; i < len(m.log); i++ {
					m.send(i)
				}
				for k := range m.sent { // it may be settled and come back from a checkpoint before that
					m.sent[k]++
				}
				m.check()
			default:
				m.append()
				if n == 9 {
					m.check()
				}
			}
		}
		m.check()
		for _, f := range readers {
			_ = f()
		}
		keys := slices.Collect(maps.Keys(m.first))
		t.Logf("%d samples, %d settled, %d series, %d files", len(keys), len(m.settled), m.db.Stats().Series, m.db.Stats().Files)
	}
}
