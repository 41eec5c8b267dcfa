package agent

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"kemi"
)

const (
	firstBackoff = 250 * time.Millisecond
	maxBackoff   = 15 * time.Second
	// maxRetryAfter bounds what a server can ask for.
	maxRetryAfter = 5 * time.Minute
	// maxUnknown is how often a batch is sent to a server that fails with it in a way that says nothing: some ten minutes.
	maxUnknown = 40
	// registerWait is how long batches wait for the host to be registered: so they get its service and owner from the first one on.
	registerWait = 10 * time.Second
	// registerEvery is how often the host is registered again, as it may have changed.
	registerEvery = 5 * time.Minute
)

// backoff is how long to wait before the next attempt. What the server asks for goes before.
func backoff(attempt int, err error) time.Duration {
	d := min(firstBackoff<<min(attempt, 10), maxBackoff)
	if asked := kemi.RetryDelay(err); asked > time.Second {
		d = max(d, min(asked, maxRetryAfter))
		return d + time.Duration(rand.Int64N(int64(d)/10+1)) // never earlier
	}
	return d - time.Duration(rand.Int64N(int64(d)/4+1))
}

// final tells whether it is no use to send it again.
func final(err error, attempt int) bool {
	for _, kind := range []error{kemi.ErrInvalid, kemi.ErrTooLarge, kemi.ErrDenied, kemi.ErrNotFound, kemi.ErrConflict} {
		if errors.Is(err, kind) {
			return true
		}
	}
	for _, kind := range []error{kemi.ErrUnavailable, kemi.ErrLimited, kemi.ErrUnauthorized} {
		if errors.Is(err, kind) {
			return false
		}
	}
	return attempt+1 >= maxUnknown
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// ship sends the batches of a queue, one after another.
func (a *Agent) ship(ctx context.Context, q *queue, kind string, send func(ctx context.Context, body []byte, batch string) error) error {
	select {
	case <-a.registered:
	case <-ctx.Done():
		return nil
	}
	for {
		b, err := q.next(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was asked to end
		}
		if err != nil {
			a.stats.complain(a.log, a.now(), "cannot read the spool", err)
			if sleep(ctx, time.Second) != nil {
				return nil //nolint:nilerr // it was asked to end
			}
			continue
		}
		if !a.deliver(ctx, q, b, kind, send) {
			return nil
		}
	}
}

// deliver sends one batch until the server has it or there is no more use. It is false if ctx ended before.
func (a *Agent) deliver(ctx context.Context, q *queue, b batch, kind string, send func(ctx context.Context, body []byte, batch string) error) bool {
	message := "the server takes no " + kind + ": they wait in the spool"
	for attempt := 0; ; attempt++ {
		err := send(ctx, b.body, b.name)
		if err == nil {
			a.stats.sent.Add(1)
			q.done(b)
			if a.stats.relieved(message) {
				n, _ := q.pending()
				a.log.Info("the server takes "+kind+" again", "waiting", n)
			}
			return true
		}
		var part *partialError
		// It is done, but for some log records, or new series. To wait for room for those would keep everything else waiting.
		if errors.As(err, &part) {
			if kind == "logs" {
				a.stats.refusedRecords.Add(part.records)
			} else {
				a.stats.refusedSeries.Add(part.records)
			}
			a.stats.complain(a.log, a.now(), "the server left out some "+kind, err)
			a.stats.sent.Add(1)
			q.done(b)
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		a.stats.sendErrors.Add(1)
		if final(err, attempt) {
			a.stats.refused.Add(1)
			a.stats.complain(a.log, a.now(), "the server refused a batch of "+kind+": it is dropped", err)
			q.done(b)
			return true
		}
		a.stats.complain(a.log, a.now(), message, err)
		if sleep(ctx, backoff(attempt, err)) != nil {
			return false
		}
		if q.isDropped(b) {
			return true
		}
	}
}

// register tells the server about the host, until it has heard, and again from time to time.
func (a *Agent) register(ctx context.Context) error {
	const message = "cannot register the host"
	open := time.AfterFunc(registerWait, a.allow)
	defer open.Stop()
	for {
		for attempt := 0; ; attempt++ {
			err := a.sink.Register(ctx, a.describeHost())
			if ctx.Err() != nil {
				return nil //nolint:nilerr // it was asked to end
			}
			if err == nil {
				a.stats.relieved(message)
				break
			}
			a.stats.complain(a.log, a.now(), message, err)
			if final(err, attempt) {
				break
			}
			if sleep(ctx, backoff(attempt, err)) != nil {
				return nil
			}
		}
		open.Stop()
		a.allow()
		if sleep(ctx, registerEvery) != nil {
			return nil
		}
	}
}

// allow lets batches be sent.
func (a *Agent) allow() { a.allowed.Do(func() { close(a.registered) }) }
