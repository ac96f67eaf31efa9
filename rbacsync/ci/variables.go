package ci

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
)

// Variable is one CI/CD variable of a GitLab project.
type Variable struct {
	Key       string
	Value     string
	File      bool // the job gets the path of a file with the value
	Masked    bool // GitLab hides the value in job logs; it must be one line then
	Protected bool // only jobs on protected branches and tags get it
}

// Delivery writes the variables into GitLab. It knows the environment scope they are written with, and touches no
// variable of another scope. Its errors name neither values nor tokens.
type Delivery interface {
	// Deliver makes the project have exactly these variables of ours and returns how many had to be written.
	Deliver(ctx context.Context, project int64, vars []Variable) (changed int, err error)
	// Withdraw removes our variables from the project.
	Withdraw(ctx context.Context, project int64) error
}

// Cluster is what a CI job must know of kube-apiserver, as jobs reach it.
type Cluster struct {
	URL string
	CA  []byte // PEM
}

// Variables returns what a deploy job gets, sorted by key.
func Variables(c Cluster, namespace, token string, protected bool) ([]Variable, error) {
	kubeconfig, err := kubeconfig(c, namespace, token)
	if err != nil {
		return nil, err
	}
	return []Variable{
		{Key: "KUBECONFIG", Value: string(kubeconfig), File: true, Protected: protected},
		{Key: "KUBE_CA_PEM", Value: string(c.CA), Protected: protected},
		{Key: "KUBE_CA_PEM_FILE", Value: string(c.CA), File: true, Protected: protected},
		{Key: "KUBE_NAMESPACE", Value: namespace, Protected: protected},
		{Key: "KUBE_TOKEN", Value: token, Masked: true, Protected: protected},
		{Key: "KUBE_URL", Value: c.URL, Protected: protected},
	}, nil
}

func kubeconfig(c Cluster, namespace, token string) ([]byte, error) {
	const name = "gitlab-deploy"
	k := clientcmdapi.NewConfig()
	k.Clusters[name] = &clientcmdapi.Cluster{Server: c.URL, CertificateAuthorityData: c.CA}
	k.AuthInfos[name] = &clientcmdapi.AuthInfo{Token: token}
	k.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: namespace}
	k.CurrentContext = name
	out, err := clientcmd.Write(*k)
	if err != nil {
		return nil, fmt.Errorf("writing the kubeconfig of %s/%s: %w", namespace, kubename.CIServiceAccount, err)
	}
	return out, nil
}

// digest is what tells a later round, also of another process, that the project has these variables already. The
// token in it is of high entropy, so the digest gives nothing away.
func digest(project int64, scope string, vars []Variable) string {
	h := sha256.New()
	text := func(s string) {
		_ = binary.Write(h, binary.BigEndian, uint64(len(s))) // hash.Hash never returns an error
		h.Write([]byte(s))
	}
	_ = binary.Write(h, binary.BigEndian, project)
	text(scope)
	for _, v := range vars {
		text(v.Key)
		text(v.Value)
		_ = binary.Write(h, binary.BigEndian, []bool{v.File, v.Masked, v.Protected})
	}
	return base64.RawStdEncoding.EncodeToString(h.Sum(nil))
}
