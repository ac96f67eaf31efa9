package setup

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/localcert"
)

// How long certificates are good, and how long before its end an authority gets a successor: so long that one renewal in a
// year hands out the successor before anything is signed with it.
const (
	leafLife      = 365 * 24 * time.Hour
	authorityLife = 10 * leafLife
	announceAt    = 2 * leafLife
	// leastLeft is what an authority must have left to sign anything more.
	leastLeft = 30 * 24 * time.Hour
)

// Names of the authorities, and of their files in the folder ca.
const (
	webhookCA = "webhook-ca"
	hooksCA   = "hooks-ca"
)

// authority is one that signs, perhaps with a successor which is only trusted so far.
type authority struct {
	name, onlyHost string
	signer, next   *localcert.Authority
	trusted        []byte // PEM: all whose certificates are to be accepted
}

func newAuthority(name, onlyHost string, now time.Time) (*authority, error) {
	ca, err := makeAuthority(name, onlyHost, now)
	if err != nil {
		return nil, err
	}
	return &authority{name: name, onlyHost: onlyHost, signer: ca, trusted: ca.PEM}, nil
}

func makeAuthority(name, onlyHost string, now time.Time) (*localcert.Authority, error) {
	v := localcert.Validity{From: now.Add(-time.Minute), Until: now.Add(authorityLife)}
	return localcert.NewAuthorityFor("gl-k8s-integrator-"+name+"-"+now.UTC().Format("20060102"), v, onlyHost)
}

// files are what the folder ca holds of it.
func (a *authority) files() (folder, error) {
	out := folder{}
	for suffix, ca := range map[string]*localcert.Authority{"": a.signer, "-next": a.next} {
		if ca == nil {
			continue
		}
		key, err := ca.Key()
		if err != nil {
			return nil, err
		}
		out.add("ca/"+a.name+suffix+".crt", ca.PEM, 0o644)
		out.add("ca/"+a.name+suffix+".key", key, 0o600)
	}
	return out, nil
}

// loadAuthority reads what files wrote. trusted is the bundle that was handed out with it.
func loadAuthority(dir, name, onlyHost string, trusted []byte) (*authority, error) {
	out := &authority{name: name, onlyHost: onlyHost, trusted: trusted}
	for suffix, into := range map[string]**localcert.Authority{"": &out.signer, "-next": &out.next} {
		cert, err := os.ReadFile(filepath.Join(dir, "ca", name+suffix+".crt"))
		if suffix != "" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		key, errKey := os.ReadFile(filepath.Join(dir, "ca", name+suffix+".key"))
		if err := errors.Join(err, errKey); err != nil {
			return nil, fmt.Errorf("reading the authority: %w: bring the folder ca back to where init made it", err)
		}
		if *into, err = localcert.LoadAuthority(cert, key); err != nil {
			return nil, fmt.Errorf("reading %s of %s: %w", name+suffix, dir, err)
		}
	}
	return out, nil
}

// renew makes the authority ready to sign again: it gets a successor before it ends, which is trusted at once and signs
// only when everybody has had a year to learn of it. The warning says where that is too late.
func (a *authority) renew(now time.Time) (warning string, err error) {
	left := a.signer.Until().Sub(now)
	if left >= announceAt {
		return "", nil
	}
	if a.next == nil {
		if a.next, err = makeAuthority(a.name, a.onlyHost, now); err != nil {
			return "", err
		}
		if left < leastLeft {
			warning = fmt.Sprintf("%s ends on %s, and its successor was not handed out before: until kube-apiserver is started again with the new files nobody can log in", a.name, day(a.signer.Until()))
			a.signer, a.next = a.next, nil
		}
	} else if left < leafLife {
		a.signer, a.next = a.next, nil
	}
	bundle := [][]byte{a.signer.PEM}
	if a.next != nil {
		bundle = append(bundle, a.next.PEM)
	}
	for rest := a.trusted; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		text := pem.EncodeToMemory(b)
		cert, err := x509.ParseCertificate(b.Bytes)
		if err == nil && cert.NotAfter.After(now) && !slices.ContainsFunc(bundle, func(x []byte) bool { return bytes.Equal(x, text) }) {
			bundle = append(bundle, text)
		}
	}
	a.trusted = bytes.Join(bundle, nil)
	return warning, nil
}

// validity is a year, or what the authority has left.
func (a *authority) validity(now time.Time) localcert.Validity {
	v := localcert.Validity{From: now.Add(-time.Minute), Until: now.Add(leafLife)}
	if end := a.signer.Until(); end.Before(v.Until) {
		v.Until = end
	}
	return v
}

// certificates returns all files that have to do with certificates of ours. An authority that is nil is cert-manager's, or not
// needed.
func certificates(a Answers, webhooks, hooks *authority, now time.Time) (folder, error) {
	out := folder{}
	if webhooks != nil {
		if err := addWebhooks(out, a, webhooks, now); err != nil {
			return nil, err
		}
	}
	if hooks == nil {
		return out, nil
	}
	own, err := hooks.files()
	if err != nil {
		return nil, err
	}
	maps.Copy(out, own)
	server, err := hooks.signer.ServerFor("gl-k8s-integrator", hooks.validity(now), a.hooksHost())
	if err != nil {
		return nil, err
	}
	out.pair("integrator/hooks", server)
	out.add("gitlab/hooks-ca.crt", hooks.trusted, 0o644)
	return out, nil
}

func (f folder) pair(path string, p localcert.Pair) {
	f.add(path+".crt", p.Cert, 0o644)
	f.add(path+".key", p.Key, 0o600)
}

// addWebhooks adds what kube-apiserver and the integrator know each other by.
func addWebhooks(out folder, a Answers, webhooks *authority, now time.Time) error {
	own, err := webhooks.files()
	if err != nil {
		return err
	}
	maps.Copy(out, own)
	host, _, err := net.SplitHostPort(a.WebhookAddress)
	if err != nil {
		return fmt.Errorf("--webhook-address: %w", err)
	}
	server, err := webhooks.signer.ServerFor("gl-k8s-integrator", webhooks.validity(now), host)
	if err != nil {
		return err
	}
	client, err := webhooks.signer.ClientFor("kube-apiserver", webhooks.validity(now))
	if err != nil {
		return err
	}
	out.pair("integrator/tls", server)
	out.pair("kube-apiserver/apiserver-client", client)
	out.add("integrator/webhook-ca.crt", webhooks.trusted, 0o644)
	out.add("kube-apiserver/webhook-ca.crt", webhooks.trusted, 0o644)
	return nil
}

// End is when a certificate of the folder ends.
type End struct {
	File string
	In   string // the file that holds that, "" if it is one itself
	At   time.Time
}

// String says where it is.
func (e End) String() string {
	if e.In != "" {
		return "`" + e.In + "`, " + e.File
	}
	return "`" + e.File + "`"
}

// ends lists the certificates with their ends, the first in each file, before those of a pod move into its Secret.
func ends(f folder, a Answers) []End {
	var out []End
	for path, file := range f {
		b, _ := pem.Decode(file.data)
		if b == nil || b.Type != "CERTIFICATE" || filepath.Base(path) == "gitlab-ca.crt" {
			continue
		}
		if cert, err := x509.ParseCertificate(b.Bytes); err == nil {
			e := End{File: path, At: cert.NotAfter}
			if name, own := strings.CutPrefix(path, "integrator/"); own && a.Run == InCluster {
				e.File, e.In = name, "files.yaml"
			}
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b End) int { return strings.Compare(a.String(), b.String()) })
	return out
}

func day(t time.Time) string { return t.UTC().Format(time.DateOnly) }
