package app

import (
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn/authntest"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/accounts"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// The states of the account that is people's and of the one that starts jobs, and of the jobs' project.
var (
	lawAccounts = map[string]string{ // fields of the seed; "": there is none
		"active": "state: active", "blocked": "state: blocked", "ldap_blocked": "state: ldap_blocked", "banned": "state: banned",
		"deactivated": "state: deactivated", "pending": "state: blocked_pending_approval", "deleted": "state: active", "absent": "",
		"service account": "type: SERVICE_ACCOUNT", "token's bot": "type: PROJECT_BOT", "ghost": "type: GHOST", "placeholder": "type: PLACEHOLDER",
		"blocked bot": "type: PROJECT_BOT, state: blocked",
	}
	lawProjects = map[string]struct{ seed, config string }{
		"served":                 {"path: haw/sub/world", ""},
		"personal":               {"path: root/world", ""},
		"archived":               {"path: haw/sub/world, archived: true", ""},
		"in an archived group":   {"path: old/world", ""},
		"marked for deletion":    {"path: haw/sub/world", ""},
		"deleted":                {"path: haw/sub/world", ""},
		"absent":                 {"path: haw/sub/world, id: 21", ""},
		"another delivery":       {"path: haw/sub/world", "ci: {delivery: id-token, projects: [{source: project/20, delivery: none}]}"},
		"another of the group":   {"path: haw/sub/world", "ci: {delivery: id-token, projects: [{source: group/7, delivery: none}]}"},
		"this one of the group":  {"path: haw/sub/world", "ci: {delivery: none, projects: [{source: group/7, delivery: id-token}]}"},
		"left out with a group":  {"path: haw/sub/world", "authz: {exclude: {sources: [group/7]}}"},
		"left out with somebody": {"path: root/world", "authz: {exclude: {people: [root]}}"},
		"archived, kept":         {"path: haw/sub/world, archived: true", "authz: {archived: keep}"},
	}
)

// lawWorld is one GitLab with the accounts 42 and 1 and the project 20 in some state, and what the webhook knows of it.
type lawWorld struct {
	cfg     *config.Config
	shop    *authntest.Workshop
	webhook authn.Authenticator
	another func() (*authn.GitLab, error) // a webhook that has read no keys yet
}

func newLawWorld(t *testing.T, shop *authntest.Workshop, account, project, require string) *lawWorld {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	users := "{id: 900, username: root, admin: true}"
	if fields := lawAccounts[account]; fields != "" {
		users += fmt.Sprintf(", {id: 42, username: alice, %[1]s}, {id: 1, username: starter, %[1]s}", fields)
	}
	p := lawProjects[project]
	if !strings.Contains(p.seed, "id:") {
		p.seed += ", id: 20"
	}
	sim, err := gitlabsim.New(gitlabsim.Options{
		Seed: fmt.Appendf(nil, "users: [%s]\ngroups: [{id: 7, path: haw}, {id: 8, path: haw/sub}, {id: 9, path: old, archived: true}]\nprojects: [{%s}]\n", users, p.seed),
		// Its own tokens are not used, and making keys takes long.
		UserKey: key(shop, "user"), CIKey: key(shop, "ci"),
	})
	must(err)
	t.Cleanup(sim.Close)
	dir := t.TempDir()
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: shop.Keys()})
	must(err)
	for name, content := range map[string]string{"ca.crt": string(sim.CA()), "token": sim.TokenFor("root", "read_api"), "keys": string(keys)} {
		must(os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	if !strings.Contains(p.config, "ci:") {
		p.config += "\nci: {delivery: id-token}"
	}
	cfg, err := config.Parse(fmt.Appendf(nil, `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %q, caFile: "%[2]s/ca.crt", readTokenFile: "%[2]s/token", writeTokenFile: "%[2]s/token"}
cluster: {kubeconfig: "%[2]s/none"}
listeners: {webhooks: {address: "127.0.0.1:0", certFile: a, keyFile: b}}
authn: {clientIDs: [kubelogin, second], keys: {file: "%[2]s/keys"}, ci: {audience: "https://k8s.example.com"}, require: {%[3]s}}
%[4]s
`, sim.URL(), dir, require, p.config))
	must(err)
	client, err := gitlabClient(cfg.GitLab)
	must(err)
	t.Cleanup(client.CloseIdleConnections)
	quiet := slog.New(slog.DiscardHandler)
	reader, err := newReader(cfg, client, quiet)
	must(err)
	knowledge, err := newKnowledge(cfg)
	must(err)
	read := func() {
		t.Helper()
		s, err := reader.Snapshot(t.Context())
		must(err)
		knowledge.Learn(s)
	}
	read()
	w := sim.World()
	if account == "deleted" {
		must(w.DeleteUser(42))
		must(w.DeleteUser(1))
	}
	switch project {
	case "deleted":
		must(w.DeleteProject(20))
	case "marked for deletion":
		must(w.MarkProjectForDeletion(20))
	}
	read()
	another := func() (*authn.GitLab, error) {
		return newAuthenticator(cfg, client, quiet, accounts.New(knowledge, accounts.Options{}))
	}
	webhook, err := another()
	must(err)
	return &lawWorld{cfg: cfg, another: another, shop: shop.For(t, &authntest.Issuer{URL: sim.URL(), Now: time.Now}), webhook: webhook}
}

func key(shop *authntest.Workshop, name string) *rsa.PrivateKey { return shop.KeyOf[name].Private }

var codeLine = regexp.MustCompile(`(?m)^code:    (\S+)$`)

// judge returns what the webhook and token inspect say of a vector.
func (w *lawWorld) judge(t *testing.T, v authntest.Vector) (webhook, inspect authn.Code) {
	t.Helper()
	token := w.shop.Token(v)
	_, err := w.webhook.Authenticate(t.Context(), token)
	if authn.CodeOf(err) == authn.CodeKeyNotReadYet { // token inspect reads the keys; so does the webhook within seconds
		again, madeErr := w.another()
		if madeErr != nil {
			t.Fatal(madeErr)
		}
		_, err = again.Authenticate(t.Context(), token)
	}
	var out strings.Builder
	ok, inspectErr := Inspect(t.Context(), w.cfg, token, &out)
	m := codeLine.FindStringSubmatch(out.String())
	if inspectErr != nil || m == nil {
		t.Fatalf("%s: %v\n%s", v.Name, inspectErr, out.String())
	}
	if ok != (err == nil) {
		t.Errorf("%s: token inspect says ok %t, the webhook %v", v.Name, ok, err)
	}
	return authn.CodeOf(err), authn.Code(m[1])
}

// TestInspectSaysWhatTheWebhookSays: of every vector, whatever GitLab says of the account and of the project. What falls by
// itself, whoever it is about, is judged in one world as a whole, and in each other one in part.
func TestInspectSaysWhatTheWebhookSays(t *testing.T) {
	shop := authntest.NewWorkshop(t, authntest.New(t))
	vectors := authntest.Vectors(t, "../../authn/testdata/tokens.yaml")
	var mu sync.Mutex
	reached, worlds := map[authn.Code]int{}, map[string][3]string{}
	for account := range lawAccounts {
		worlds[account] = [3]string{account, "served", ""}
	}
	for project := range lawProjects {
		worlds["active, "+project] = [3]string{"active", project, ""}
	}
	worlds["right needed"] = [3]string{"active", "served", "mappedRight: true"}
	worlds["membership needed"] = [3]string{"active", "served", "groups: [7]"}
	worlds["right needed of nobody"] = [3]string{"absent", "another delivery", "mappedRight: true"}
	t.Cleanup(func() { reachedAll(t, reached) })
	falls := map[string]bool{}
	judge := func(t *testing.T, world [3]string, wanted func(int, authntest.Vector) bool, judged func(authntest.Vector, authn.Code)) {
		w := newLawWorld(t, shop, world[0], world[1], world[2])
		for n, v := range vectors {
			if v.Request.Method+v.Request.ContentType+v.Request.Body != "" || !wanted(n, v) {
				continue // no token
			}
			if _, set := v.Claims["user_id"]; v.Base == "ci" && !set {
				v.Claims = maps.Clone(v.Claims)
				if v.Claims == nil {
					v.Claims = map[string]any{}
				}
				v.Claims["user_id"] = "1"
			}
			var webhook, inspect authn.Code
			for range 3 { // a token at the edge of its time may turn between the two
				if webhook, inspect = w.judge(t, v); webhook == inspect {
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if webhook != inspect {
				t.Errorf("%s: token inspect says %s, the webhook %s", v.Name, inspect, webhook)
			}
			mu.Lock()
			reached[webhook]++
			mu.Unlock()
			judged(v, webhook)
		}
	}
	all := func(int, authntest.Vector) bool { return true }
	judge(t, [3]string{"active", "served", ""}, all, func(v authntest.Vector, code authn.Code) { falls[v.Name] = code != authn.CodeOK })
	for name, world := range worlds {
		turn := len(name) // any number that differs from one to the next
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			some := func(n int, v authntest.Vector) bool { return !falls[v.Name] || (n+turn)%8 == 0 }
			judge(t, world, some, func(authntest.Vector, authn.Code) {})
		})
	}
}

// reachedAll: the worlds differ in what decides.
func reachedAll(t *testing.T, reached map[authn.Code]int) {
	for _, code := range []authn.Code{
		authn.CodeOK, authn.CodeUserBlocked, authn.CodeUserBanned, authn.CodeUserDeactivated, authn.CodeUserPendingApproval, authn.CodeUserDeleted,
		authn.CodeUserNotHuman, authn.CodeUserNotAdmitted, authn.CodeCIUserNotActive, authn.CodeCIProjectNotServed, authn.CodeCIOtherDelivery,
		authn.CodeBadSignature, authn.CodeTokenExpired, authn.CodeForeignIssuer,
	} {
		if reached[code] == 0 {
			t.Errorf("no token reaches %s", code)
		}
	}
}
