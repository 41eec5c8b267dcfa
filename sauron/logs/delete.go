package logs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"

	"kemi"
	"kemi/pipeline/store"
)

// serveDelete deletes what a query finds. Unlike a question it takes no span of time by itself. Deletions come one after another; one that is broken off
// may have taken a part of the records, and goes on if it is asked again.
func (l *Logs) serveDelete(w http.ResponseWriter, r *http.Request, id kemi.Identity) error {
	if need := kemi.LogsRead | kemi.LogsDelete; !id.Can(need) {
		return kemi.Errorf(kemi.ErrDenied, "delete logs: %s lacks the permission %s", id.Subject, need&^id.Permissions)
	}
	v, err := params(w, r)
	if err != nil {
		return err
	}
	for _, names := range [][2]string{{"query", "q"}, {"start", "from"}, {"end", "to"}} {
		if first(v, names[0], names[1]) == "" {
			return kemi.Errorf(kemi.ErrInvalid, "%s: is missing: a deletion names query, start and end", names[0])
		}
	}
	q, err := parseQuestion(v, l.o.Now())
	if err != nil {
		return err
	}
	select {
	case l.deleting <- struct{}{}:
		defer func() { <-l.deleting }()
	case <-r.Context().Done():
		return kemi.Errorf(kemi.ErrUnavailable, "delete logs: others delete: %w", r.Context().Err())
	}
	deleted, err := l.o.Deleter.Delete(r.Context(), id, store.LogQuery{Expr: q.expr, Range: q.span})
	// The query itself may be what has to go, and this log may be stored, too. Who knows the query can tell by the hash that it was this one.
	sum := sha256.Sum256([]byte(first(v, "query", "q")))
	attrs := []any{
		"by", id.Subject, "project", id.Project, "querySHA256", hex.EncodeToString(sum[:]), "start", stamp(q.span.From), "end", stamp(q.span.To), "deleted", deleted,
	}
	if err != nil {
		l.o.Log.Warn("logs not deleted, or not all", append(attrs, "err", err)...)
		return err
	}
	l.o.Log.Info("logs deleted", attrs...)
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(struct {
		Deleted  int64    `json:"deleted"`
		Warnings []string `json:"warnings,omitempty"`
	}{deleted, q.warnings})
}
