package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// Seen is something that came from outside. What says of which kind it was, never who: "user", "user_add_to_team".
type Seen struct {
	At   time.Time `json:"at"`
	What string    `json:"what"`
	From string    `json:"from,omitempty"` // the address of who sent it, which may be a proxy's
}

// Activity is what arrived last, at any replica. What never did is zero.
type Activity struct {
	Login   Seen `json:"login,omitzero"`   // somebody was let in; What is the kind of token
	Hook    Seen `json:"hook,omitzero"`    // a hook with our secret or signature; What is its event
	Refused Seen `json:"refused,omitzero"` // a hook that says to be GitLab's and has no proof of it; What is why
}

// later takes in what another Activity has that is newer, and reports whether it had any.
func (a *Activity) later(b Activity) (news bool) {
	for _, pair := range [][2]*Seen{{&a.Login, &b.Login}, {&a.Hook, &b.Hook}, {&a.Refused, &b.Refused}} {
		if pair[1].At.After(pair[0].At) {
			*pair[0], news = *pair[1], true
		}
	}
	return news
}

const (
	activityKey   = "activity.json"  // in the ConfigMap of the document
	activityEvery = 10 * time.Second // at most; the first news is written at once
	activityTime  = 5 * time.Second  // for one attempt
)

// Watch notes what arrives at this process, and writes it down beside what others noted. Its methods may be called at the same
// time; those that take something in never wait.
type Watch struct {
	kube kubernetes.Interface
	log  *slog.Logger
	now  func() time.Time
	wake chan struct{}

	mu   sync.Mutex
	last Activity
}

// NewWatch returns a Watch to which nothing has come yet; Run makes it write.
func NewWatch(kube kubernetes.Interface, now func() time.Time, log *slog.Logger) *Watch {
	return &Watch{kube: kube, log: log, now: now, wake: make(chan struct{}, 1)}
}

// Login takes in that a token was taken for somebody's.
func (w *Watch) Login(kind string) { w.see(Activity{Login: Seen{At: w.now(), What: kind}}) }

// Hook takes in a hook that proved itself.
func (w *Watch) Hook(event, from string) {
	w.see(Activity{Hook: Seen{At: w.now(), What: clip(event, maxText), From: from}})
}

// Refuse takes in a hook that did not.
func (w *Watch) Refuse(why, from string) {
	w.see(Activity{Refused: Seen{At: w.now(), What: why, From: from}})
}

func (w *Watch) see(a Activity) {
	w.mu.Lock()
	w.last.later(a)
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Last returns what arrived last, as far as this process knows: what it saw itself, and what had been written down when it began
// or last wrote.
func (w *Watch) Last() Activity {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// Run reads what others have seen, and writes down what arrives here, until ctx is done.
func (w *Watch) Run(ctx context.Context) {
	for wait := time.Duration(0); ; wait = activityEvery { // what comes right after the start is written at once
		if err := w.write(ctx); err != nil && ctx.Err() == nil {
			w.log.WarnContext(ctx, "when somebody logged in last, and when a hook came last, was not written down", "error", err)
			w.see(Activity{}) // try again
			wait = activityEvery
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		}
	}
}

// write joins what is written down with what is known here.
func (w *Watch) write(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, activityTime)
	defer cancel()
	for {
		cm, err := w.kube.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameStatus, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			cm, err = &corev1.ConfigMap{}, nil
		}
		if err != nil {
			return err
		}
		written := activityOf(cm)
		w.mu.Lock()
		w.last.later(written)
		all := w.last
		w.mu.Unlock()
		if !written.later(all) && cm.Data[activityKey] != "" {
			return nil // that nothing ever came is written down too
		}
		body, err := json.Marshal(all)
		if err != nil {
			return err
		}
		if err := setKey(ctx, w.kube, activityKey, string(body), cm.ResourceVersion); !apierrors.IsConflict(err) {
			return err
		}
	}
}

// activityOf returns what is written down; of a damaged one nothing, since a new one is written soon.
func activityOf(cm *corev1.ConfigMap) (a Activity) {
	_ = json.Unmarshal([]byte(cm.Data[activityKey]), &a)
	return a
}

// setKey writes one key of the ConfigMap, and leaves the others to their writers; with a version only if the ConfigMap still has
// that one.
func setKey(ctx context.Context, kube kubernetes.Interface, key, value, version string) error {
	meta := map[string]any{}
	if version != "" {
		meta["resourceVersion"] = version
	}
	patch, err := json.Marshal(map[string]any{"metadata": meta, "data": map[string]string{key: value}})
	if err != nil {
		return err
	}
	all := kube.CoreV1().ConfigMaps(deploy.Namespace)
	if cm, err := all.Get(ctx, store.NameStatus, metav1.GetOptions{}); err == nil {
		if err := store.Readable(cm); err != nil {
			return err
		}
	}
	whole := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: store.NameStatus, Namespace: deploy.Namespace, Labels: map[string]string{"app.kubernetes.io/name": "gl-k8s-integrator"},
	}, Data: map[string]string{key: value}}
	_, err = all.Patch(ctx, store.NameStatus, types.MergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		_, err = all.Create(ctx, whole, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // another writer was faster
			_, err = all.Patch(ctx, store.NameStatus, types.MergePatchType, patch, metav1.PatchOptions{})
		}
	}
	if apierrors.IsInvalid(err) { // somebody made it immutable
		return store.Put(ctx, all, whole)
	}
	return err
}

// ago says when something came, in one or two units.
func (s Seen) ago(now time.Time) string {
	if s.At.IsZero() {
		return "never"
	}
	d := max(0, now.Sub(s.At))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%d min ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min ago", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%d days ago", int(d.Hours()/24))
}

// Text says when something came, of which kind and from where.
func (s Seen) Text(now time.Time) string { return s.ago(now) + s.details() }

// details says what came, of which kind and from where.
func (s Seen) details() string {
	switch {
	case s.At.IsZero() || s.What == "":
		return ""
	case s.From == "":
		return fmt.Sprintf(" (%s)", s.What)
	}
	return fmt.Sprintf(" (%s, from %s)", s.What, s.From)
}
