package app

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/kubernetes/fake"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// TestHistoryIsShown: by namespace, by person, in a span and at a moment, as text and for programs; nothing on the terminal would
// leave open whether anything was looked at.
func TestHistoryIsShown(t *testing.T) {
	kube := fake.NewClientset()
	show := func(v HistoryView) string {
		t.Helper()
		var out bytes.Buffer
		if err := showHistory(t.Context(), audit.NewReader(kube), v, time.Now(), &out); err != nil {
			return err.Error()
		}
		return out.String()
	}
	for _, v := range []HistoryView{{}, {Namespace: "haw"}, {User: "7"}, {Namespace: "haw", At: "1h"}} {
		if got := show(v); !strings.Contains(got, "yet: a leader in mode enforce") {
			t.Errorf("%+v, before anything is: %q", v, got)
		}
	}
	began := time.Now().Add(-time.Hour).UTC().Truncate(time.Second)
	in := authz.GroupID(1)
	snap := &authz.Snapshot{
		Issuer: "https://gitlab.example.com", Users: map[int64]authz.User{7: {ID: 7, Username: "carol", State: authz.StateActive, Human: true}},
		Groups: map[int64]authz.Group{1: {ID: 1, Path: "haw", Members: []authz.Member{{User: 7, Level: authz.Developer}}}},
	}
	key := rbacsync.Key{Namespace: "haw", Kind: rbacsync.KindRoleBinding, Name: "gitlab-view"}
	namespace := rbacsync.Object{Key: rbacsync.NamespaceKey("haw"), Namespace: &rbacsync.Namespace{Source: in, Issuer: snap.Issuer}}
	w := audit.NewWriter(audit.Options{Kube: kube, Limits: func() audit.Limits { return audit.Limits{Days: 1, MaxBytes: 1 << 20} }, Now: time.Now, Log: slog.New(slog.DiscardHandler)})
	w.Take(syncer.Written{
		Kind: syncer.KindFull, Cause: "hook user_add_to_group", Observed: &rbacsync.Observed{}, Snapshot: snap, Began: began, Ended: began.Add(time.Second),
		Made: []rbacsync.Change{
			{Action: rbacsync.Create, Key: namespace.Key, Source: in, New: &namespace, ApprovedBy: "kubernetes-admin"},
			{Action: rbacsync.Create, Key: key, Source: in, New: &rbacsync.Object{Key: key, Binding: &rbacsync.Binding{Role: "view", Users: []int64{7}}}},
		},
	})
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	const why = "[hook user_add_to_group; Developer in haw, direct member; approved by kubernetes-admin]\n"
	at := began.Format(time.RFC3339)
	for _, tt := range []struct {
		v    HistoryView
		want string
	}{
		{HistoryView{}, "haw: 2\n"},
		{HistoryView{Namespace: "haw"}, at + "  + gitlab:7 (carol)  view  " + why},
		{HistoryView{User: "carol"}, at + "  haw  + gitlab:7 (carol)  view  " + why},
		{HistoryView{User: "gitlab:7", Namespace: "haw", Since: "2h", Until: "10m"}, at + "  + gitlab:7 (carol)  view  " + why},
		{HistoryView{Namespace: "haw", Since: "10m"}, "no such change is remembered; all are since " + at + "\n"},
		{HistoryView{Namespace: "other"}, "no such change is remembered; all are since " + at + "\n"},
		{HistoryView{Namespace: "haw", At: "10m"}, "haw  gitlab:7 (carol)  view  since " + at + "  " + why},
		{HistoryView{User: "7", At: at}, "haw  gitlab:7 (carol)  view  since " + at + "  " + why},
		{HistoryView{Namespace: "haw", At: "2h"}, "who had what is known since " + at + "\n"},
		{HistoryView{Namespace: "other", At: "10m"}, "nobody had a right there at "},
		{HistoryView{User: "nobody"}, `nobody in the history has the name "nobody"`},
		{HistoryView{Namespace: "haw", At: "2999-01-01"}, "is still to come"},
		{HistoryView{Since: "1h"}, "of whom?"},
		{HistoryView{Namespace: "haw", Since: "yesterday", Output: "xml"}, "--since: want a time like"},
		{HistoryView{Namespace: "haw", Since: "yesterday", Output: "xml"}, "-o: want text or json"},
		{HistoryView{Namespace: "haw", Since: "1h", At: "1h"}, "--at is a moment"},
	} {
		if got := show(tt.v); !strings.Contains(got, tt.want) {
			t.Errorf("%+v: %q, want %q", tt.v, got, tt.want)
		}
	}
	var entries []audit.Entry
	if err := json.Unmarshal([]byte(show(HistoryView{User: "7", Output: "json"})), &entries); err != nil || len(entries) != 1 || entries[0].Who.ID != 7 {
		t.Errorf("%+v, %v", entries, err)
	}
	var m audit.Moment
	if err := json.Unmarshal([]byte(show(HistoryView{Namespace: "haw", At: "1m", Output: "json"})), &m); err != nil || !m.Known || len(m.Rights) != 1 {
		t.Errorf("%+v, %v", m, err)
	}
	if got := show(HistoryView{Namespace: "other", Output: "json"}); got != "[]\n" {
		t.Errorf("%q", got)
	}
}
