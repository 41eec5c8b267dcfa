package agent

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"kemi"
	"kemi/collectors/tail"
	"kemi/pipeline/codec"
)

const (
	maxBatchRecords = 4000
	maxBatchBytes   = 512 << 10
)

// gathering is the log batch that is being made.
type gathering struct {
	records   []kemi.LogRecord
	bytes     int
	positions map[string]any // nil values are forgotten ones
}

func (b *gathering) empty() bool { return len(b.records) == 0 && len(b.positions) == 0 }

func (b *gathering) full() bool { return len(b.records) >= maxBatchRecords || b.bytes >= maxBatchBytes }

func (b *gathering) add(r kemi.LogRecord) {
	b.records = append(b.records, r)
	b.bytes += len(r.Body) + 64
}

// gather puts log records into batches and spools them, together with the positions after them. While the spool takes none it
// does not either, and then files and journal are not read.
func (a *Agent) gather(ctx context.Context) error {
	b := gathering{positions: map[string]any{}}
	timer := time.NewTimer(0)
	<-timer.C
	defer timer.Stop()
	for {
		was := b.empty()
		flush := false
		select {
		case es := <-a.tailOut:
			for _, e := range es {
				a.addLine(&b, e)
			}
		case es := <-a.journalOut:
			for _, e := range es {
				a.addRecord(&b, e.Record)
				b.positions[journalKey] = e.Position
			}
		case <-timer.C:
			flush = true
		case <-ctx.Done():
			// One more write, so that what was read is not read again; if it fails, it is.
			if !b.empty() {
				if err := a.spoolLogs(&b); err != nil {
					a.log.Info("the last log lines are read again at the next start", "err", err)
				}
			}
			return nil
		}
		if was && !b.empty() {
			timer.Reset(linger)
		}
		if !flush && !b.full() || b.empty() {
			continue
		}
		timer.Stop()
		if err := a.spoolLogsPatiently(ctx, &b); err != nil {
			return nil //nolint:nilerr // ctx ended
		}
	}
}

func (a *Agent) addLine(b *gathering, e tail.Entry) {
	switch {
	case e.Gone:
		b.positions[filePrefix+e.Key] = nil
		return
	case !e.Only:
		a.addRecord(b, e.Record)
	}
	b.positions[filePrefix+e.Key] = e.Position
}

// addRecord adds what the pipelines leave of a record.
func (a *Agent) addRecord(b *gathering, r kemi.LogRecord) {
	if a.transform == nil || a.transform.Keep(&r) {
		b.add(r)
	}
}

// spoolLogsPatiently waits until the spool takes the batch.
func (a *Agent) spoolLogsPatiently(ctx context.Context, b *gathering) error {
	const message = "log files are not read any further until the spool takes lines again"
	for {
		err := a.spoolLogs(b)
		if err == nil {
			if a.stats.relieved(message) {
				a.log.Info("log files are read again")
			}
			return nil
		}
		a.stats.complain(a.log, a.now(), message, err)
		if errors.Is(err, errFull) {
			if err := a.logs.waitRoom(ctx); err != nil {
				return err
			}
			continue
		}
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// spoolLogs spools b and empties it.
func (a *Agent) spoolLogs(b *gathering) error {
	positions, err := json.Marshal(b.positions)
	if err != nil {
		return err
	}
	// The project is the request's, and the IDs are made from the name of the batch; neither stands in the body.
	body := codec.EncodeOTLPLogs(b.records)
	if err := a.logs.append(body, positions); err != nil {
		return err
	}
	// The records may not be used again: codec keeps the right to them.
	b.records = make([]kemi.LogRecord, 0, min(cap(b.records), 256))
	b.bytes = 0
	clear(b.positions)
	return nil
}
