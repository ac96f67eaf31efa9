package audit

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// Reader reads the history, in any replica and in commands. It is safe for concurrent use.
type Reader struct{ kube kubernetes.Interface }

// NewReader returns a Reader of the cluster's history.
func NewReader(kube kubernetes.Interface) *Reader { return &Reader{kube: kube} }

// User returns the changes of one person's rights from since until until, the oldest first. A zero time is no bound.
func (r *Reader) User(ctx context.Context, id int64, since, until time.Time) ([]Entry, error) {
	return r.some(ctx, since, until, func(e Entry) bool { return e.Who.ID == id })
}

// Namespace returns the changes in one namespace from since until until, the oldest first. A zero time is no bound.
func (r *Reader) Namespace(ctx context.Context, namespace string, since, until time.Time) ([]Entry, error) {
	return r.some(ctx, since, until, func(e Entry) bool { return e.Namespace == namespace })
}

// At returns who had which right in a namespace at a time.
func (r *Reader) At(ctx context.Context, namespace string, at time.Time) (Moment, error) {
	all, err := r.Namespace(ctx, namespace, time.Time{}, at)
	m := Moment{Namespace: namespace, At: at}
	type key struct {
		who  Who
		role string
	}
	have := map[key]Right{}
	for _, e := range all {
		switch k := (key{e.Who, e.Role}); e.What {
		case Gained:
			have[k] = Right{Who: e.Who, Role: e.Role, Since: e.At, Cause: e.Cause, Why: e.Why, ApprovedBy: e.ApprovedBy}
		case Lost:
			delete(have, k)
		case Created, Changed, Deleted:
		}
	}
	for _, x := range have {
		m.Rights = append(m.Rights, x)
	}
	m.Known = len(all) > 0
	return m, err
}

func (r *Reader) some(ctx context.Context, since, until time.Time, want func(Entry) bool) ([]Entry, error) {
	var all []Entry
	_, _, err := r.blob().Load(ctx, "", func(in io.Reader) error { return json.NewDecoder(in).Decode(&all) })
	if errors.Is(err, store.ErrNone) {
		return nil, nil
	}
	var out []Entry
	for _, e := range all {
		if want(e) && (since.IsZero() || !e.At.Before(since)) && (until.IsZero() || !e.At.After(until)) {
			out = append(out, e)
		}
	}
	return out, err
}

func (r *Reader) blob() store.Blob {
	return store.Blob{Client: r.kube, Namespace: deploy.Namespace, Name: store.NameAudit}
}
