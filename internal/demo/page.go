package demo

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// pageClientID is the application id of the page in the simulated GitLab.
const pageClientID = "page-demo"

// preparePage registers the page in GitLab, as an administrator would, and returns the files that its configuration names.
func preparePage(e *Env, address string) (map[string]string, error) {
	e.page = "https://" + address
	key, secret := make([]byte, 32), "gloas-"+rand.Text()
	_, _ = rand.Read(key) // never fails
	err := e.GitLab.AddApplication(gitlabsim.Application{
		Name: "Kubernetes access", UID: pageClientID, Secret: secret, Confidential: true,
		RedirectURIs: []string{e.page + "/signin/callback"}, Scopes: []string{"openid", "profile"},
	})
	if err != nil {
		return nil, fmt.Errorf("registering the page in GitLab: %w", err)
	}
	return map[string]string{"page-secret": secret, "page-key": base64.StdEncoding.EncodeToString(key)}, nil
}

// visitor is somebody with a browser at the page.
type visitor struct {
	e      *Env
	client *http.Client
}

// newVisitor signs somebody in on the page, through GitLab's own pages.
func newVisitor(ctx context.Context, e *Env, username, password string) (*visitor, error) {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(e.pageCA)
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, fmt.Errorf("making a cookie jar: %w", err)
	}
	v := &visitor{e, &http.Client{
		Timeout: loginTimeout, Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}},
		CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if "https://"+r.URL.Host != e.page {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}}
	answer, err := v.get(ctx, e.page+"/signin")
	if err != nil {
		return nil, err
	}
	callback, err := gitlabsim.Login(ctx, e.GitLab.Client(), answer.location, username, password)
	if err != nil {
		return nil, fmt.Errorf("logging in on GitLab's page: %w", err)
	}
	if answer, err = v.get(ctx, callback); err == nil && answer.status != http.StatusOK {
		err = fmt.Errorf("signing in on the page: it answers %d", answer.status)
	}
	return v, err
}

// answer is what the page answered.
type answer struct {
	status         int
	location, body string
}

func (v *visitor) get(ctx context.Context, address string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return answer{}, fmt.Errorf("preparing a request: %w", err)
	}
	res, err := v.client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("opening the page: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4<<20))
	return answer{res.StatusCode, res.Header.Get("Location"), string(body)}, err
}

func (v *visitor) close() { v.client.CloseIdleConnections() }

// row finds a namespace in the list of the page.
var row = regexp.MustCompile(`href="/namespaces/([a-z0-9-]+)"`)

func thePage(ctx context.Context, e *Env, r *Report) {
	r.Say("david opens %s, signs in with GitLab, and reads:", e.page)
	david, err := newVisitor(ctx, e, "david", "dave-password")
	if err != nil {
		r.Fail("signing in", err)
		return
	}
	defer david.close()
	var names []string
	_, ok := eventually(ctx, settle, func() bool {
		list, err := david.get(ctx, e.page+"/namespaces")
		names = nil
		for _, m := range row.FindAllStringSubmatch(list.body, -1) {
			names = append(names, m[1])
		}
		return err == nil && strings.Contains(list.body, `"/namespaces/haw-world"`)
	})
	r.show("My namespaces: " + strings.Join(names, ", "))
	r.Check(ok, "the page lists the namespaces that are david's, with the reason for each")
	file, err := david.get(ctx, e.page+"/kubeconfig?namespace=haw-world")
	if err != nil {
		r.Fail("downloading the kubeconfig", err)
		return
	}
	r.Check(file.status == http.StatusOK && strings.Contains(file.body, e.Cluster.URL()) && hide(file.body) == file.body, "it gives david a kubeconfig, in which there is no token")
	p := user{"david", filepath.Join(e.work, "from-the-page.kubeconfig")}
	if err := os.WriteFile(p.kubeconfig, []byte(file.body), 0o600); err != nil {
		r.Fail("saving the kubeconfig", err)
		return
	}
	o := e.run(ctx, r, p, "config", "get-contexts", "--output=name")
	r.Check(o.code == 0 && o.has("haw-world"), "with a context for each of them")
}
