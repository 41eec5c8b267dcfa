package merge

import (
	"context"
	"iter"
	"strings"

	"github.com/prometheus/prometheus/model/metadata"
	"github.com/prometheus/prometheus/storage"

	"kemi"
	"kemi/pipeline/batch"
	"kemi/pipeline/bus"
	"kemi/pipeline/codec"
	"kemi/pipeline/head"
	"kemi/pipeline/settled"
	"kemi/pipeline/store"
)

// liveStore is the live store as the batch layer sees it.
type liveStore struct{ db *head.DB }

var _ batch.Live = liveStore{}

// Ready waits until it is open.
func (l liveStore) Ready(ctx context.Context) error { return l.db.Ready(ctx) }

// Sources are what is due.
func (l liveStore) Sources() ([]batch.Source, kemi.Millis) {
	due, closed := l.db.Sources()
	out := make([]batch.Source, 0, len(due))
	for _, s := range due {
		out = append(out, batch.Source{ID: s.ID, Range: s.Range, Late: s.Late, Bytes: s.Bytes})
	}
	return out, closed
}

// Read yields the series of a source.
func (l liveStore) Read(ctx context.Context, ids []string) iter.Seq2[*settled.Series, error] {
	return func(yield func(*settled.Series, error) bool) {
		if len(ids) != 1 {
			yield(nil, kemi.Errorf(kemi.ErrInvalid, "read %d sources: there is one at a time", len(ids)))
			return
		}
		var s settled.Series
		for x, err := range l.db.ReadSource(ctx, ids[0]) {
			if err != nil {
				yield(nil, err)
				return
			}
			s.Project, s.Labels, s.At, s.Values, s.Histograms = x.Project, x.Labels, x.At, x.Values, s.Histograms[:0]
			for _, h := range x.Histograms {
				s.Histograms = append(s.Histograms, settled.Histograms{From: h.From, To: h.To, Samples: h.Samples, Encoding: uint8(h.Encoding), Chunk: h.Chunk})
			}
			if !yield(&s, nil) {
				return
			}
		}
	}
}

// Retire says that sources are settled.
func (l liveStore) Retire(ids []string) error { return l.db.Retire(ids) }

// What follows is the live store's alone. It is written out, so that what the live store learns to answer is not by itself an answer without the
// settled blocks.

// Append adds the samples of a batch.
func (s *Store) Append(ctx context.Context, b *codec.SeriesBatch, at store.Position) error {
	return s.live.Append(ctx, b, at)
}

// Positions are where replay has to begin.
func (s *Store) Positions() bus.Positions { return s.live.Positions() }

// Sync makes all that was appended durable.
func (s *Store) Sync(ctx context.Context) error { return s.live.Sync(ctx) }

// Ready waits until what the live store has in memory is there, and a deletion that a crash has interrupted is done.
func (s *Store) Ready(ctx context.Context) error { return s.layer.Ready(ctx) }

// Start tells of the live store's start.
func (s *Store) Start() head.Start { return s.live.Start() }

// Freshness says how near the live store is to the log.
func (s *Store) Freshness() store.Freshness { return s.live.Freshness() }

// SetReplaying says that what was acknowledged before the start is not all there yet.
func (s *Store) SetReplaying(reason string) { s.live.SetReplaying(reason) }

// ExemplarQueryable is the exemplars of the identity's project.
func (s *Store) ExemplarQueryable(id kemi.Identity) storage.ExemplarQueryable {
	return s.live.ExemplarQueryable(id)
}

// Metadata is what senders said of the metrics of the identity's project.
func (s *Store) Metadata(id kemi.Identity, metric string) map[string]metadata.Metadata {
	return s.live.Metadata(id, metric)
}

// Status tells what is in memory.
func (s *Store) Status(ctx context.Context, id kemi.Identity, limit int) (any, error) {
	return s.live.Status(ctx, id, limit)
}

// Room is an error when the live store takes no new series of a project.
func (s *Store) Room(project string, ls kemi.Labels) error { return s.live.Room(project, ls) }

// Has tells whether the live store has a series in memory.
func (s *Store) Has(project string, ls kemi.Labels) bool { return s.live.Has(project, ls) }

// Stats tells what the live store holds.
func (s *Store) Stats() head.Stats { return s.live.Stats() }

// BlockMetas describes the settled blocks as Prometheus does its own.
func (s *Store) BlockMetas(context.Context) (any, error) {
	out := []any{}
	for _, b := range s.layer.Stats().List {
		out = append(out, map[string]any{
			"ulid": strings.TrimPrefix(b.ID, "b-"), "minTime": b.From, "maxTime": b.To, "version": 1,
			"stats":      map[string]any{"numSamples": b.Samples, "numSeries": b.Series},
			"compaction": map[string]any{"level": b.Level + 1, "hints": []string{"settled"}},
		})
	}
	return out, nil
}

// SetLive says when all is there that had been acknowledged before the start.
func (s *Store) SetLive(live <-chan struct{}) { s.live.SetLive(live) }
