package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/keystore"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestEveryStoredObjectHasAFormat: whatever the integrator's Role lets it write in its own namespace is in store.Formats, and
// nothing else is.
func TestEveryStoredObjectHasAFormat(t *testing.T) {
	want := map[string]string{}
	for _, f := range store.Formats() {
		if f.Version < 1 {
			t.Errorf("%s has version %d", f.Name, f.Version)
		}
		want[f.Name] = strings.ToLower(f.Kind) + "s"
	}
	for _, name := range audit.SecretNames() {
		want[name] = "secrets"
	}
	for _, blob := range []string{store.NameSnapshot, store.NameHistory} {
		for _, name := range store.SecretNames(blob) {
			want[name] = "secrets"
		}
	}
	text, err := os.ReadFile("../../deploy/manifests/10-integrator-role.yaml")
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for part := range strings.SplitSeq(string(text), "\n---\n") {
		var role rbacv1.Role
		if err := yaml.Unmarshal([]byte(part), &role); err != nil {
			t.Fatal(err)
		}
		if role.Kind != "Role" {
			continue
		}
		for _, rule := range role.Rules {
			for _, name := range rule.ResourceNames {
				if !slices.Contains(rule.Resources, "leases") {
					have[name] = strings.Join(rule.Resources, " ")
				}
			}
		}
	}
	if !maps.Equal(have, want) {
		t.Errorf("the Role in deploy/manifests lets us write\n%v\nand store.Formats has\n%v", have, want)
	}
}

type noKeys struct{}

func (noKeys) Keys() ([]byte, time.Time)           { return []byte(`{"keys":[]}`), time.Now() }
func (noKeys) RestoreKeys([]byte, time.Time) error { return errors.New("restored") }

// beginHistory has the history begin.
func beginHistory(ctx context.Context, kube kubernetes.Interface) error {
	w := audit.NewWriter(audit.Options{Kube: kube, Limits: func() audit.Limits { return audit.Limits{Days: 1, MaxBytes: 1 << 20} }, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	w.Take(syncer.Written{Kind: syncer.KindFull, Observed: &rbacsync.Observed{}, Snapshot: &authz.Snapshot{}, Began: time.Now(), Ended: time.Now()})
	return w.Flush(ctx)
}

// laterFormats returns, for each stored object, all that reads or writes it.
func laterFormats(kube *fake.Clientset) map[string]map[string]func(context.Context) error {
	log := slog.New(slog.DiscardHandler)
	snapshots := store.Snapshots{Blob: store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameSnapshot}}
	history := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameHistory}
	held := store.Held{Client: kube, Namespace: deploy.Namespace}
	inbox := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: log, Now: time.Now}
	keys := keystore.New(keystore.Options{Kube: kube, Auth: noKeys{}, Origin: "https://gitlab.example.com", MaxAge: time.Hour, Logger: log})
	show := func(ctx context.Context) error {
		return showHistory(ctx, audit.NewReader(kube), HistoryView{}, time.Now(), io.Discard)
	}
	type ops = map[string]func(context.Context) error
	return map[string]ops{
		store.NameKeys: {
			"restore": keys.Restore,
			"write":   func(ctx context.Context) error { return keys.Write(ctx, []byte("{}"), time.Now()) },
		},
		store.NameSnapshot: {
			"load": func(ctx context.Context) error { _, _, err := snapshots.Load(ctx, ""); return err },
			"save": func(ctx context.Context) error {
				return snapshots.Save(ctx, syncer.Stored{Snapshot: &authz.Snapshot{Taken: time.Now()}}, nil)
			},
		},
		store.NameHistory: {
			"show": show,
			"save": func(ctx context.Context) error {
				return history.Save(ctx, nil, func(w io.Writer) error { _, err := io.WriteString(w, "{}"); return err })
			},
		},
		store.NameAudit: {"show": show, "save": func(ctx context.Context) error { return beginHistory(ctx, kube) }},
		store.NameAuditBase: {"show": func(ctx context.Context) error {
			_, _, err := store.Blob{Client: kube, Namespace: deploy.Namespace, Name: store.NameAuditBase}.Load(ctx, "", func(io.Reader) error { return nil })
			return err
		}, "save": func(ctx context.Context) error { return beginHistory(ctx, kube) }},
		store.NameStatus: {
			"show": func(ctx context.Context) error { return status.Show(ctx, kube, io.Discard) },
			"read": func(ctx context.Context) error { _, err := status.Read(ctx, kube); return err },
			"write": func(ctx context.Context) error {
				return store.Put(ctx, kube.CoreV1().ConfigMaps(deploy.Namespace), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: store.NameStatus, Namespace: deploy.Namespace}})
			},
		},
		store.NameInbox: {
			"remove": func(ctx context.Context) error {
				return inbox.Remove(ctx, []intake.Ticket{{Key: "project-1", Value: "of a later version"}})
			},
		},
		store.NameHeld: {
			"load": func(ctx context.Context) error { _, err := held.Load(ctx); return err },
			"save": func(ctx context.Context) error { return held.Save(ctx, []rbacsync.Item{{Source: authz.ProjectID(1)}}) },
		},
		store.NameApprovals: {
			"load":   func(ctx context.Context) error { _, err := held.Approvals(ctx); return err },
			"forget": func(ctx context.Context) error { return held.Forget(ctx, []string{"x"}) },
		},
	}
}

// TestALaterFormatIsRefusedAndKept: an object with a later format than this version knows is neither read nor changed, nor
// taken for empty, whatever is done with it; and who finds one does not lead.
func TestALaterFormatIsRefusedAndKept(t *testing.T) {
	for _, f := range store.Formats() {
		for _, format := range []string{"1000", "2.0", "", "-1"} {
			annotations := map[string]string{kubename.AnnotationFormat: format}
			meta := metav1.ObjectMeta{Name: f.Name, Namespace: deploy.Namespace, Annotations: annotations}
			kube := fake.NewClientset(&corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"x": []byte("later")}})
			if f.Kind == "ConfigMap" {
				kube = fake.NewClientset(&corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"project-1": "of a later version"}})
			}
			now := func() metav1.Object {
				var o metav1.Object
				var err error
				if f.Kind == "Secret" {
					o, err = kube.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), f.Name, metav1.GetOptions{})
				} else {
					o, err = kube.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), f.Name, metav1.GetOptions{})
				}
				if err != nil {
					t.Fatalf("%s: %v", f.Name, err)
				}
				return o
			}
			before := now()
			ops := laterFormats(kube)[f.Name]
			if len(ops) == 0 {
				t.Errorf("%s: nothing says what reads and writes it", f.Name)
			}
			for op, do := range ops {
				err := do(t.Context())
				if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), f.Name) {
					t.Errorf("%s with format %q: %s: %v", f.Name, format, op, err)
				}
				if !equality.Semantic.DeepEqual(now(), before) {
					t.Errorf("%s with format %q: %s changed it", f.Name, format, op)
				}
			}
			if err := store.Known(t.Context(), kube, deploy.Namespace); !errors.Is(err, store.ErrNewer) {
				t.Errorf("%s with format %q: who finds it would lead: %v", f.Name, format, err)
			}
		}
	}
	for _, blob := range []string{store.NameSnapshot, store.NameHistory, store.NameAuditBase} { // the description of a Blob has a version too
		kube := fake.NewClientset(&corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: blob, Namespace: deploy.Namespace}, Data: map[string][]byte{"head": []byte(`{"format":2,"sha256":5}`)},
		})
		for op, do := range laterFormats(kube)[blob] {
			s, err := kube.CoreV1().Secrets(deploy.Namespace).Get(t.Context(), blob, metav1.GetOptions{})
			if got := do(t.Context()); !errors.Is(got, store.ErrNewer) || err != nil || string(s.Data["head"]) != `{"format":2,"sha256":5}` || len(s.Data) != 1 {
				t.Errorf("%s of format 2: %s: %v; it holds %q, %v", blob, op, got, s.Data, err)
			}
		}
		if err := store.Known(t.Context(), kube, deploy.Namespace); !errors.Is(err, store.ErrNewer) {
			t.Errorf("%s of format 2: who finds it would lead: %v", blob, err)
		}
	}
	if err := store.Known(t.Context(), fake.NewClientset(), deploy.Namespace); err != nil {
		t.Errorf("nothing is stored: %v", err)
	}
}

// TestHooksAreKeptInAnInboxOfALaterFormat: GitLab sends a hook once, so it is added; nothing of what is there is lost.
func TestHooksAreKeptInAnInboxOfALaterFormat(t *testing.T) {
	data := map[string]string{}
	for i := range int64(store.MaxInbox) {
		data[authz.ProjectID(i+1).Label()] = "of a later version"
	}
	kube := fake.NewClientset(&corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: store.NameInbox, Namespace: deploy.Namespace, Annotations: map[string]string{kubename.AnnotationFormat: "2"}}, Data: data,
	})
	inbox := &store.Inbox{Client: kube, Watch: kube, Namespace: deploy.Namespace, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
	if err := inbox.Put(t.Context(), []authz.SourceID{authz.GroupID(7)}, "test"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	inbox.Follow(ctx, func(taken []intake.Ticket) { t.Errorf("it was read: %v", taken[0]) }, func([]intake.Ticket) bool { return false })
	cm, err := kube.CoreV1().ConfigMaps(deploy.Namespace).Get(t.Context(), store.NameInbox, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(cm.Data["group-7"], " test") {
		t.Errorf("the hook is not there: %q", cm.Data["group-7"])
	}
	delete(cm.Data, "group-7")
	if !maps.Equal(cm.Data, data) {
		t.Error("what a later version wrote has changed")
	}
}
