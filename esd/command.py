from pathlib import Path
import hydra
CONF = next(p for p in (Path(__file__).parent / "conf", Path(__file__).parent.parent / "conf") if p.is_dir())
def command(name):
    return hydra.main(version_base="1.3", config_path=str(CONF), config_name=name)
