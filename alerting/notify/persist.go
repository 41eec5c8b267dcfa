package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/prometheus/alertmanager/nflog/nflogpb"
	"github.com/prometheus/alertmanager/silence/silencepb"
	"google.golang.org/protobuf/encoding/protodelim"

	"kemi"
	"kemi/pipeline/store"
)

// The kinds of resource in the control store.
const (
	kindAlert   = "alert"
	kindSilence = "silence"
	kindNflog   = "notification-log"
	kindOutbox  = "outbox"
)

// entry is a piece of state as Alertmanager hands it to its peers. We keep it in the control store instead, and merge it back
// at the next start as if a peer had sent it.
type entry struct {
	Payload []byte      `json:"payload"`
	Expires kemi.Millis `json:"expires"`
}

// mesh is what silences and the notification log have in common: they broadcast each change and merge what others broadcast.
type mesh interface {
	SetBroadcast(func([]byte))
	Merge([]byte) error
}

// persist restores m from the store, and from then on keeps each change there before the call that made it returns.
func persist(ctx context.Context, m *Manager, kind string, state mesh, identify func([]byte) (name string, expires time.Time, err error)) error {
	rs, err := m.o.Control.List(ctx, m.o.Project, kind, store.ListOptions{})
	if err != nil {
		return fmt.Errorf("restore %s: %w", kind, err)
	}
	for _, r := range rs {
		var e entry
		if err := json.Unmarshal(r.Spec, &e); err != nil {
			return fmt.Errorf("restore %s %s: %w", kind, r.Name, err)
		}
		if e.Expires <= kemi.MillisOf(m.o.Now()) {
			if err := m.o.Control.Delete(ctx, r.Project, kind, r.Name, r.Revision); err != nil {
				return fmt.Errorf("forget %s %s: %w", kind, r.Name, err)
			}
			continue
		}
		if err := state.Merge(e.Payload); err != nil {
			return fmt.Errorf("restore %s %s: %w", kind, r.Name, err)
		}
	}
	state.SetBroadcast(func(b []byte) {
		name, expires, err := identify(b)
		if err == nil {
			var spec []byte
			if spec, err = json.Marshal(entry{Payload: bytes.Clone(b), Expires: kemi.MillisOf(expires)}); err == nil {
				_, err = m.o.Control.Put(ctx, store.Resource{Project: m.o.Project, Kind: kind, Name: name, Spec: spec, Revision: store.AnyRevision})
			}
		}
		if err != nil && ctx.Err() == nil {
			m.o.Log.Error("not kept; it would be lost by a crash", "kind", kind, "name", name, "err", err)
		}
	})
	return nil
}

func identifySilence(b []byte) (string, time.Time, error) {
	var e silencepb.MeshSilence
	if err := protodelim.UnmarshalFrom(bytes.NewReader(b), &e); err != nil {
		return "", time.Time{}, err
	}
	return e.Silence.Id, e.ExpiresAt.AsTime(), nil
}

func identifyNflog(b []byte) (string, time.Time, error) {
	var e nflogpb.MeshEntry
	if err := protodelim.UnmarshalFrom(bytes.NewReader(b), &e); err != nil {
		return "", time.Time{}, err
	}
	r := e.Entry.Receiver
	return digest(string(e.Entry.GroupKey), r.GroupName, r.Integration, fmt.Sprint(r.Idx)), e.ExpiresAt.AsTime(), nil
}

// digest is a name for a list of texts.
func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil)[:20])
}
