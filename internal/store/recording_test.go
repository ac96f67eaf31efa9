package store

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/clusterroles"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/rbacsynctest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

func recorded() Recorded {
	snap := rbacsynctest.HawWorld()
	snap.Taken, snap.Admin, snap.Missing = rbacsynctest.Noon, true, map[authz.SourceID]string{authz.GroupID(7): "page 2: 502"}
	p := snap.Projects[42]
	p.Variables = &[]authz.CIVariable{{Key: "KUBE_TOKEN", Scope: "production", Marked: true, Cluster: "c1", Delivery: "what stands for the value"}, {Key: "KUBE_URL", Scope: "production", Delivery: "what stands for the value of somebody else"}}
	snap.Projects[42] = p
	before := rbacsynctest.HawWorld()
	before.Taken = rbacsynctest.Noon.Add(-time.Hour)
	config := authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource}}
	ns := &rbacsync.Live{Object: rbacsync.Object{Key: rbacsync.NamespaceKey("haw"), Namespace: &rbacsync.Namespace{Source: authz.GroupID(7), Issuer: snap.Issuer}}, UID: "u1", Born: 5}
	binding := &rbacsync.Live{Object: rbacsync.Object{
		Key: rbacsync.Key{Namespace: "haw", Kind: rbacsync.KindRoleBinding, Name: "gitlab-edit"}, Binding: &rbacsync.Binding{Role: "edit", Users: []int64{2}, Members: "alice (2)"},
	}}
	known := &ci.Known{
		API: ci.Cluster{URL: "https://k8s.example.com", CA: []byte("PEM")}, Keys: []string{"k1"}, Agent: ci.AgentState{Context: "haw/infra:icc"},
		TooOld: map[rbacsync.Delivery]string{rbacsync.DeliverAgent: "it is old"}, Kept: map[string]ci.Kept{"haw": {Records: "{}", Readers: []int64{2}, Anchor: "u2"}},
	}
	return Recorded{Cluster: "c1", CA: true, Scope: "production", Known: known, Recording: &syncer.Recording{
		Taken: rbacsynctest.Noon, Snapshot: snap,
		Observed: &rbacsync.Observed{
			Live: []*rbacsync.Live{ns, binding}, Foreign: map[rbacsync.Key]bool{rbacsync.NamespaceKey("default"): true}, Secrets: map[string]map[string]any{"gl-k8s-integrator-shared-pull": {}},
		},
		Stored: &syncer.Stored{
			Snapshot: before, Before: before, Names: map[authz.SourceID]string{authz.GroupID(7): "haw"}, Policy: &config, Begun: []authz.PolicyConfig{config}, Jobs: map[int64]string{42: "haw-world"},
			Marks: map[string]rbacsync.Mark{"haw": {UID: "u1", Source: authz.GroupID(7)}}, Past: []rbacsync.Past{{At: rbacsynctest.Noon, Scope: authz.GroupID(7), Cause: authz.UserID(3)}},
		},
		Approved: map[string]string{"revoke group/7 edit 2": ""},
		Roles:    clusterroles.Roles{"edit": {Exists: clusterroles.Answer{Verdict: clusterroles.Yes}, Bindable: clusterroles.Answer{Verdict: clusterroles.No, Reason: "no right"}}},
		Exists:   map[authz.SourceID]bool{authz.ProjectID(9): false},
		Levels:   map[rbacsync.Membership]authz.Level{{Source: authz.GroupID(7), User: 2}: authz.Owner},
	}}
}

// TestARecordingIsReadAsItWasWritten, but for what nobody needs.
func TestARecordingIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	want := recorded()
	var file bytes.Buffer
	if err := WriteRecording(&file, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRecording(bytes.NewReader(file.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	(*want.Recording.Snapshot.Projects[42].Variables)[1].Delivery = ""
	if d := cmp.Diff(want, got, cmpopts.EquateEmpty()); d != "" {
		t.Errorf("(-written +read):\n%s", d)
	}
}

// TestRecordingsThatCanNotBeRead are refused with what to do.
func TestRecordingsThatCanNotBeRead(t *testing.T) {
	t.Parallel()
	var file bytes.Buffer
	if err := WriteRecording(&file, recorded()); err != nil {
		t.Fatal(err)
	}
	packed := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return b.Bytes()
	}
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"text":          {[]byte("apiVersion: v1"), "snapshot save"},
		"empty":         {nil, "snapshot save"},
		"another file":  {packed("{}\n"), "another format"},
		"a later form":  {packed(`{"format":"gl-k8s-integrator snapshot","version":2}` + "\n"), "version 2, and this program reads 1"},
		"no facts":      {packed(`{"format":"gl-k8s-integrator snapshot","version":1}` + "\n"), "damaged"},
		"half a file":   {file.Bytes()[:file.Len()/2], "damaged"},
		"without lines": {packed(`{"format":"gl-k8s-integrator snapshot","version":1}` + "\n" + `{"live":0}` + "\n" + `{}`), "header"},
	} {
		_, err := ReadRecording(bytes.NewReader(c.data))
		if !errors.Is(err, ErrRecording) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
