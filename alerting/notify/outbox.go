package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"kemi"
	"kemi/pipeline/store"
)

// Message is a notification on its way, and afterwards the record of it.
type Message struct {
	Key      string          `json:"key"` // idempotency key
	Receiver string          `json:"receiver"`
	Group    string          `json:"group"`
	URL      string          `json:"url"`
	Body     json.RawMessage `json:"body"`
	Queued   kemi.Millis     `json:"queued"`
}

// Delivery is how far a message has come.
type Delivery struct {
	State    string      `json:"state"` // pending, delivered, failed
	Attempts int         `json:"attempts"`
	Last     string      `json:"last,omitempty"` // the last answer or error
	At       kemi.Millis `json:"at,omitempty"`   // of the last attempt
}

// The states of a delivery.
const (
	Pending   = "pending"
	Delivered = "delivered"
	Failed    = "failed"
)

const (
	giveUpAfter   = 24 * time.Hour
	keepDelivered = 7 * 24 * time.Hour
	maxKept       = 10_000
	maxBackoff    = time.Minute
	attemptTime   = 10 * time.Second
	senders       = 4
)

// outbox sends messages from the control store, each receiver's in order.
type outbox struct {
	m      *Manager
	client *http.Client

	mu     sync.Mutex
	queues map[string][]*queued // by receiver: pending messages in order
	wake   chan struct{}
}

type queued struct {
	r        store.Resource
	msg      Message
	delivery Delivery
	next     time.Time // of the next attempt
	busy     bool
}

func newOutbox(ctx context.Context, m *Manager) (*outbox, error) {
	o := &outbox{
		m: m, queues: map[string][]*queued{}, wake: make(chan struct{}, 1),
		client: &http.Client{
			Timeout: attemptTime,
			// A redirect could carry the message to where nobody meant it to go.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	rs, err := m.o.Control.List(ctx, m.o.Project, kindOutbox, store.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	for _, r := range rs {
		q, err := read(r)
		if err != nil {
			return nil, err
		}
		if q.delivery.State == Pending {
			o.queues[q.msg.Receiver] = append(o.queues[q.msg.Receiver], q)
		}
	}
	for _, qs := range o.queues {
		slices.SortFunc(qs, func(a, b *queued) int { return int(a.msg.Queued - b.msg.Queued) })
	}
	return o, nil
}

func read(r store.Resource) (*queued, error) {
	q := &queued{r: r}
	if err := errors.Join(json.Unmarshal(r.Spec, &q.msg), json.Unmarshal(r.Status, &q.delivery)); err != nil {
		return nil, fmt.Errorf("read message %s: %w", r.Name, err)
	}
	return q, nil
}

// put makes a message durable. A message with a key that is known was taken before: it is not sent again.
func (o *outbox) put(ctx context.Context, msg Message) error {
	spec, err := json.Marshal(msg)
	if err != nil {
		return fmt.Errorf("queue message for %s: %w", msg.Receiver, err)
	}
	q := &queued{msg: msg, delivery: Delivery{State: Pending}}
	status, err := json.Marshal(q.delivery)
	if err != nil {
		return fmt.Errorf("queue message for %s: %w", msg.Receiver, err)
	}
	q.r, err = o.m.o.Control.Put(ctx, store.Resource{Project: o.m.o.Project, Kind: kindOutbox, Name: msg.Key, Spec: spec, Status: status})
	if errors.Is(err, kemi.ErrConflict) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("queue message for %s: %w", msg.Receiver, err)
	}
	o.mu.Lock()
	o.queues[msg.Receiver] = append(o.queues[msg.Receiver], q)
	o.mu.Unlock()
	o.kick()
	return nil
}

func (o *outbox) kick() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// run sends until ctx ends.
func (o *outbox) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, senders)
	prune := time.NewTicker(time.Hour)
	defer prune.Stop()
	for ctx.Err() == nil {
		q, wait := o.due()
		if q != nil {
			slots <- struct{}{}
			wg.Go(func() {
				o.send(ctx, q)
				<-slots
				o.kick()
			})
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-o.wake:
		case <-prune.C:
			if err := o.forget(ctx); err != nil && ctx.Err() == nil {
				o.m.o.Log.Warn("old messages not forgotten", "err", err)
			}
		}
		timer.Stop()
	}
}

// due takes a message that may be sent now, the oldest of a receiver that has none on its way, or tells how long to wait.
func (o *outbox) due() (*queued, time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now, wait := o.m.o.Now(), maxBackoff
	for _, qs := range o.queues {
		if len(qs) == 0 || qs[0].busy {
			continue
		}
		if d := qs[0].next.Sub(now); d > 0 {
			wait = min(wait, d)
			continue
		}
		qs[0].busy = true
		return qs[0], 0
	}
	return nil, wait
}

// send makes one attempt and writes down how it went.
func (o *outbox) send(ctx context.Context, q *queued) {
	retry, answer := o.attempt(ctx, q)
	if ctx.Err() != nil {
		o.mu.Lock()
		q.busy = false
		o.mu.Unlock()
		return // it stays pending for the next start
	}
	now := o.m.o.Now()
	q.delivery.Attempts++
	q.delivery.Last, q.delivery.At = answer, kemi.MillisOf(now)
	switch {
	case retry && now.Sub(q.msg.Queued.Time()) < giveUpAfter:
		q.next = now.Add(backoff(q.delivery.Attempts))
	case retry, answer != "" && !strings.HasPrefix(answer, "2"):
		q.delivery.State = Failed
	default:
		q.delivery.State = Delivered
	}
	o.m.deliveries.WithLabelValues(q.delivery.State).Inc()
	if q.delivery.State != Delivered {
		o.m.o.Log.Warn("notification not delivered", "receiver", q.msg.Receiver, "state", q.delivery.State, "attempts", q.delivery.Attempts, "answer", answer)
	}
	var err error
	if q.r.Status, err = json.Marshal(q.delivery); err == nil {
		q.r.Revision = store.AnyRevision
		_, err = o.m.o.Control.Put(ctx, q.r)
	}
	if err != nil && ctx.Err() == nil {
		o.m.o.Log.Error("delivery not written down; the message may be sent again after a restart", "receiver", q.msg.Receiver, "err", err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	q.busy = false
	if q.delivery.State != Pending {
		o.queues[q.msg.Receiver] = slices.DeleteFunc(o.queues[q.msg.Receiver], func(x *queued) bool { return x == q })
	}
}

func backoff(attempts int) time.Duration {
	return min(maxBackoff, time.Second<<min(attempts-1, 10))
}

// attempt posts the message. 2xx is a success; 429, 5xx and no answer at all are worth another try, other answers are final.
func (o *outbox) attempt(ctx context.Context, q *queued) (retry bool, answer string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, q.msg.URL, bytes.NewReader(q.msg.Body))
	if err != nil {
		return false, "not a URL"
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "KEMI")
	req.Header.Set("Idempotency-Key", q.msg.Key)
	if secret := o.m.secretOf(q.msg.Receiver); secret != "" {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(q.msg.Body)
		req.Header.Set("X-Kemi-Signature", "sha256="+hex.EncodeToString(mac.Sum(nil)))
	}
	resp, err := o.client.Do(req)
	if err != nil {
		var u *url.Error // its text holds the URL, which may hold a secret
		if errors.As(err, &u) {
			err = u.Err
		}
		return true, err.Error()
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	code := resp.StatusCode
	return code == http.StatusTooManyRequests || code == http.StatusRequestTimeout || code >= 500, strconv.Itoa(code) + " " + http.StatusText(code)
}

// forget deletes the records of messages that are over, so that the history is bounded.
func (o *outbox) forget(ctx context.Context) error {
	rs, err := o.m.o.Control.List(ctx, o.m.o.Project, kindOutbox, store.ListOptions{})
	if err != nil {
		return err
	}
	slices.SortFunc(rs, func(a, b store.Resource) int { return int(b.Updated - a.Updated) })
	old := kemi.MillisOf(o.m.o.Now().Add(-keepDelivered))
	for i, r := range rs {
		q, err := read(r)
		if err != nil {
			return err
		}
		if q.delivery.State != Pending && (r.Updated < old || i >= maxKept) {
			if err := o.m.o.Control.Delete(ctx, r.Project, r.Kind, r.Name, r.Revision); err != nil && !errors.Is(err, kemi.ErrNotFound) && !errors.Is(err, kemi.ErrConflict) {
				return err
			}
		}
	}
	return nil
}

// MessageStatus is a message and how its delivery went.
type MessageStatus struct {
	Message
	Delivery
}

// Messages are the latest notifications, newest first.
func (m *Manager) Messages(ctx context.Context, limit int) ([]MessageStatus, error) {
	rs, err := m.o.Control.List(ctx, m.o.Project, kindOutbox, store.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("read the outbox: %w", err)
	}
	out := make([]MessageStatus, 0, len(rs))
	for _, r := range rs {
		q, err := read(r)
		if err != nil {
			return nil, err
		}
		out = append(out, MessageStatus{Message: q.msg, Delivery: q.delivery})
	}
	slices.SortFunc(out, func(a, b MessageStatus) int { return int(b.Queued - a.Queued) })
	return out[:min(len(out), limit)], nil
}
