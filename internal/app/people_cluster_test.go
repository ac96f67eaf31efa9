package app

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/freeport"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

// peopleReplica is one process with a port for people.
type peopleReplica struct {
	s    *reloading
	url  string
	stop func()
}

// replica starts one. The first leads.
func (s *reloading) replica(name, authn string, hooks string) *peopleReplica {
	s.Helper()
	webhooks, web, metrics := freeport.For(s), freeport.For(s), freeport.For(s)
	if hooks != "" {
		hooks = fmt.Sprintf(", hooks: {address: %q, secretFile: %s/hook-secret}", hooks, s.dir)
	}
	path := filepath.Join(s.dir, name+".yaml")
	s.must(os.WriteFile(path, fmt.Appendf(nil, `apiVersion: gl-k8s-integrator/v1alpha1
kind: Config
gitlab: {url: %[1]s, caFile: %[2]s/gitlab-ca.crt, readTokenFile: %[2]s/read-token, writeTokenFile: %[2]s/write-token}
cluster: {kubeconfig: %[2]s/kubeconfig}
rbacsync: {mode: enforce, interval: 30m}
listeners: {webhooks: {address: %[3]q, certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}, metrics: {address: %[4]q}, web: {address: %[5]q, certFile: %[2]s/tls.crt, keyFile: %[2]s/tls.key}, drainDelay: 1ms%[6]s}
authn: {%[7]s}
`, s.gitlab.URL(), s.dir, webhooks, metrics, web, hooks, authn), 0o600))
	cfg, err := config.Load(path)
	s.must(err)
	ctx, cancel := context.WithCancel(s.Context())
	ended := make(chan error, 1)
	log := slog.New(slog.NewJSONHandler(&s.log, &slog.HandlerOptions{Level: slog.LevelDebug})).With("replica", name)
	go func() { ended <- Serve(ctx, cfg, log) }()
	r := &peopleReplica{s: s, url: "https://" + web}
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			s.Errorf("the end of %s: %v", name, err)
		}
	})
	s.Cleanup(r.stop)
	return r
}

func (r *peopleReplica) do(path, token string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(r.s.Context(), http.MethodGet, r.url+path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	return (&http.Client{Transport: r.s.client.Transport}).Do(req) // without its time limit
}

// list returns somebody's namespaces, or the code of why they are not told.
func (r *peopleReplica) list(token string) (list webapi.MyNamespaces, code string) {
	time.Sleep(300 * time.Millisecond) // who asks in a loop is told to wait
	res, err := r.do(webapi.PathMyNamespaces, token)
	if err != nil {
		return list, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return list, err.Error()
	}
	var refused webapi.Error
	if err := errors.Join(json.Unmarshal(body, &list), json.Unmarshal(body, &refused)); err != nil {
		return list, string(body)
	}
	return list, refused.Code
}

// watch returns what the lines of a watch say: the roles in haw-world, or a code.
func (r *peopleReplica) watch(token string) <-chan string {
	r.s.Helper()
	res, err := r.do(webapi.PathMyNamespaces+"?watch=true", token)
	r.s.must(err)
	lines := make(chan string, 100)
	go func() {
		defer close(lines)
		defer res.Body.Close()
		for in := bufio.NewScanner(res.Body); in.Scan(); {
			var line struct {
				webapi.MyNamespaces
				Code string
			}
			if len(in.Bytes()) == 0 || json.Unmarshal(in.Bytes(), &line) != nil {
				continue
			}
			text := line.Code
			for _, n := range line.Namespaces {
				if n.Name == "haw-world" {
					text += strings.Join(n.Roles, ",") + n.State
				}
			}
			lines <- text
		}
	}()
	return lines
}

// next waits for a line that says this; what was on the way to it (its CI, a right that is being written) passes by.
func (s *reloading) next(lines <-chan string, want string) {
	s.Helper()
	var seen []string
	for timeout := time.After(30 * time.Second); ; {
		select {
		case line, open := <-lines:
			if seen = append(seen, line); open && line == want {
				return
			}
			if !open {
				s.Fatalf("the watch ended after %q, without %q", seen, want)
			}
		case <-timeout:
			s.Fatalf("only %q, and not %q", seen, want)
		}
	}
}

// TestPeopleAreToldByEachReplica: the leader and a follower, of which one judges no tokens for kube-apiserver, tell people the
// same: what they have, what their jobs were given, and what changes, until they are blocked or the process ends.
func TestPeopleAreToldByEachReplica(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: needs a real control plane")
	}
	t.Parallel()
	s := newReloading(t)
	s.must(os.WriteFile(filepath.Join(s.dir, "write-token"), []byte(s.gitlab.TokenFor("root", "api")), 0o600))
	leader := s.replica("leader", "clientIDs: [kubelogin]", s.hooks)
	s.eventually("the first rights", func() bool { return s.has("gitlab-edit", "alice") && s.has("gitlab-view", "bob") })
	_, err := s.gitlab.AddSystemHook(gitlabsim.SeedHook{URL: "http://" + s.hooks + "/hooks/gitlab", Token: "s3cret-of-the-hook"})
	s.must(err)
	follower := s.replica("follower", "disabled: true, clientIDs: [kubelogin]", "")
	both := []*peopleReplica{leader, follower}
	token := func(name string) string {
		token, err := s.gitlab.MintUserIDToken(s.user(name), "kubelogin", gitlabsim.TokenOptions{})
		s.must(err)
		return token
	}
	alice, bob, carol := token("alice"), token("bob"), token("carol")
	for _, r := range both {
		s.eventually("what alice has", func() bool {
			list, code := r.list(alice)
			if code != "" || len(list.Namespaces) != 2 || list.Namespaces[0].Name != "alice" {
				return false
			}
			n := list.Namespaces[1]
			return n.Name == "haw-world" && slices.Equal(n.Roles, []string{"edit"}) && n.State == "" && n.Path == "haw/world" && n.URL == s.gitlab.URL()+"/haw/world" && list.User.Username == "alice" &&
				n.CI != nil && n.CI.Outcome == "delivered" && n.CI.Delivery == "variables" && n.CI.Good.After(time.Now().Add(time.Hour)) && n.CI.At.Before(time.Now())
		})
		if list, code := r.list(carol); code != "" || len(list.Namespaces) != 1 || list.Namespaces[0].Name != "carol" {
			t.Errorf("carol: %+v %s", list, code)
		}
	}
	var watches, ofBob []<-chan string
	for _, r := range both {
		watches, ofBob = append(watches, r.watch(alice)), append(ofBob, r.watch(bob))
	}
	s.must(s.gitlab.World().SetMember(gitlabsim.KindProject, s.project, s.user("bob"), gitlabsim.Maintainer, ""))
	for _, lines := range ofBob {
		s.next(lines, "view")
		s.next(lines, "edit")
	}
	s.must(s.gitlab.World().SetUserState(s.user("alice"), "blocked"))
	for i, lines := range watches {
		s.next(lines, "user_blocked")
		s.eventually("alice is refused", func() bool { _, code := both[i].list(alice); return code == "user_blocked" })
	}
	for i, r := range both {
		r.stop()
		s.next(ofBob[i], "ending")
	}
	s.anAPIServiceThatIsAway()
	if strings.Contains(s.log.String(), alice) || strings.Contains(s.log.String(), bob) {
		t.Error("a token is in the log")
	}
}

// anAPIServiceThatIsAway shows why there is no aggregated API (docs/adr/0129): while its server is away no namespace goes.
func (s *reloading) anAPIServiceThatIsAway() {
	s.Helper()
	objects, err := dynamic.NewForConfig(s.cluster.AdminConfig())
	s.must(err)
	services := objects.Resource(schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"})
	const name = "v1.my.gl-k8s-integrator.io"
	_, err = services.Create(s.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": map[string]any{"name": name}, "spec": map[string]any{
			"group": "my.gl-k8s-integrator.io", "version": "v1", "groupPriorityMinimum": int64(100), "versionPriority": int64(100), "insecureSkipTLSVerify": true,
			"service": map[string]any{"name": "away", "namespace": deploy.Namespace},
		},
	}}, metav1.CreateOptions{})
	s.must(err)
	namespaces := s.admin.CoreV1().Namespaces()
	_, err = namespaces.Create(s.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "of-somebody-else"}}, metav1.CreateOptions{})
	s.must(err)
	s.eventually("an APIService that is away", func() bool {
		_, _, err := s.admin.Discovery().ServerGroupsAndResources()
		return discovery.IsGroupDiscoveryFailedError(err)
	})
	s.must(namespaces.Delete(s.Context(), "of-somebody-else", metav1.DeleteOptions{}))
	s.eventually("the deletion hangs", func() bool {
		ns, err := namespaces.Get(s.Context(), "of-somebody-else", metav1.GetOptions{})
		return err == nil && slices.ContainsFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool {
			return c.Type == corev1.NamespaceDeletionDiscoveryFailure && c.Status == corev1.ConditionTrue && strings.Contains(c.Message, "my.gl-k8s-integrator.io")
		})
	})
	s.must(services.Delete(s.Context(), name, metav1.DeleteOptions{}))
	s.eventually("and goes on without it", func() bool {
		_, err := namespaces.Get(s.Context(), "of-somebody-else", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
