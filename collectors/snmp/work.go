package snmp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"kemi/pipeline/bus"
)

// group is the pollers that share the jobs.
const group = "snmp-pollers"

// commitEvery is how often the position is written down below which all jobs are done.
const commitEvery = time.Second

// queue is the jobs that a poller has taken and not yet done. One host is never asked twice at once, and of its waiting jobs only the newest counts.
type queue struct {
	mu      sync.Mutex
	running map[string]bool   // by key
	waiting map[string]taken  // by key: it waits for the host's running one
	open    map[int32]offsets // what is not done, by partition
	free    chan struct{}     // one for each worker that rests
}

type taken struct {
	j  *job
	at offset
}

type offset struct {
	partition int32
	offset    int64
}

// offsets are the records of a partition that are not done, and the end of those that were read.
type offsets struct {
	open map[int64]bool
	next int64
}

// position is below which everything is done.
func (o offsets) position() int64 {
	p := o.next
	for at := range o.open {
		p = min(p, at)
	}
	return p
}

// work takes jobs from the bus and does them. What is not done when ctx ends is read again after the restart.
func (s *SNMP) work(ctx context.Context) (err error) {
	in, err := s.o.Bus.Subscribe(ctx, bus.Jobs, group, nil)
	if err != nil {
		return fmt.Errorf("read the jobs: %w", err)
	}
	q := &queue{running: map[string]bool{}, waiting: map[string]taken{}, open: map[int32]offsets{}, free: make(chan struct{}, s.o.Config.Workers)}
	for range s.o.Config.Workers {
		q.free <- struct{}{}
	}
	var workers sync.WaitGroup
	stop := make(chan struct{})
	workers.Go(func() { s.commit(q, in, stop) })
	defer func() {
		close(stop)
		workers.Wait()
		err = errors.Join(err, in.Close())
	}()
	for {
		b, err := in.Next(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) {
				return nil
			}
			return fmt.Errorf("read the jobs: %w", err)
		}
		q.read(b)
		for i := range b.Records {
			r := &b.Records[i]
			at := offset{r.Partition, r.Offset}
			j := jobOf(r)
			switch {
			case j == nil:
				s.m.jobs.WithLabelValues("foreign").Inc()
				q.done(at)
				continue
			case j.late(s.o.Now()):
				s.m.jobs.WithLabelValues("late").Inc()
				q.done(at)
				continue
			}
			if replaced, waits := q.wait(j, at); waits {
				if replaced {
					s.m.jobs.WithLabelValues("replaced").Inc()
				}
				continue
			}
			select {
			case <-q.free:
			case <-ctx.Done():
				return nil
			}
			workers.Go(func() {
				for j, at, more := j, at, true; more; {
					s.do(ctx, j)
					if ctx.Err() != nil {
						break
					}
					q.done(at)
					j, at, more = q.next(j.key())
				}
				q.free <- struct{}{}
			})
		}
	}
}

// commit writes down how far all is done, until stop is closed.
func (s *SNMP) commit(q *queue, in bus.Reader, stop <-chan struct{}) {
	t := time.NewTicker(commitEvery)
	defer t.Stop()
	last := bus.Positions{}
	for ended := false; !ended; {
		select {
		case <-stop:
			ended = true
		case <-t.C:
		}
		p := q.positions()
		for part, at := range p {
			if last[part] == at {
				delete(p, part)
			}
		}
		if len(p) == 0 {
			continue
		}
		if err := in.Commit(context.Background(), p); err != nil {
			s.o.Log.Warn("cannot write down which polls are done; after a restart some are done again", "err", err)
			continue
		}
		for part, at := range p {
			last[part] = at
		}
	}
}

func (q *queue) read(b bus.Batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := q.open[b.Partition]
	if o.open == nil {
		o.open = map[int64]bool{}
	}
	for i := range b.Records {
		o.open[b.Records[i].Offset] = true
	}
	o.next = b.Next()
	q.open[b.Partition] = o
}

func (q *queue) done(at offset) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.open[at.partition].open, at.offset)
}

func (q *queue) positions() bus.Positions {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := bus.Positions{}
	for part, o := range q.open {
		p[part] = o.position()
	}
	return p
}

// wait lets a job wait if its host is being asked; otherwise the host counts as being asked from now on.
func (q *queue) wait(j *job, at offset) (replaced, waits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := j.key()
	if !q.running[key] {
		q.running[key] = true
		return false, false
	}
	if older, ok := q.waiting[key]; ok {
		delete(q.open[older.at.partition].open, older.at.offset)
		replaced = true
	}
	q.waiting[key] = taken{j, at}
	return replaced, true
}

// next is the host's waiting job, if there is one.
func (q *queue) next(key string) (*job, offset, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	t, ok := q.waiting[key]
	if ok {
		delete(q.waiting, key)
		return t.j, t.at, true
	}
	delete(q.running, key)
	return nil, offset{}, false
}
