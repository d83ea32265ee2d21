"""x"""
HELP=""
def add_arguments(p): p.add_argument("--config")
def run(g): pass
